"""The tables of docs/nano.md on what the small models get right, from benchmarks/results/nano*.json."""

from typing import Any

from int4_tables import results, table

NANO_ROWS = {
    "color": "colors",
    "shape": "shapes",
    "count": "counts, 1 to 5",
    "place": "which ninth of the picture",
    "relation": "left, right, above, below",
    "describe": "naming all shapes of a picture",
    "read_large": "reading unseen strings",
    "read_small": "the same, 14 to 17 pixels high",
    "read_all": "reading up to four strings",
    "chart": "bar charts",
    "character": "single characters: place, color",
}
VL2_ROWS = {
    "find": "where one thing is",
    "find_all": "where all things of a kind or color are",
    "caption": "naming and placing everything",
    "absent": "what is not there",
    "region": "what is in a box",
    "read_tiles": "text that only tiles show",
    "table": "tables as Markdown",
    "several": "several pictures",
    "in_context": "examples in context",
    **NANO_ROWS,
}


def nano_table() -> str:
    """Right answers of nano."""
    figures = results("nano.json")
    return _by_kind(figures, NANO_ROWS)


def nano_vl2_table() -> str:
    """Right answers of nano-vl2."""
    return _by_kind(results("nano_vl2.json"), VL2_ROWS)


def _by_kind(figures: dict[str, Any], names: dict[str, str]) -> str:
    columns = figures["accuracy"]
    rows = [
        [name, str(figures["questions"][kind]), *(f"{column[kind]:.1%}" for column in columns.values())]
        for kind, name in names.items()
        if kind in figures["questions"]
    ]
    return table(["held-out questions about", "asked", *columns], rows)


def nano_vl2_boxes_table() -> str:
    """Boxes of nano-vl2 that share half with the right ones."""
    ways = results("nano_vl2.json")["boxes"]
    kinds = next(iter(ways.values()))
    rows = [
        [VL2_ROWS[kind], *(f"{way[kind]['recall']:.1%}, {way[kind]['precision']:.1%}" for way in ways.values())]
        for kind in kinds
    ]
    return table(["boxes found, boxes right", *ways], rows)


def nano_vl2_facts_table() -> str:
    """What else was measured of nano-vl2."""
    figures = results("nano_vl2.json")
    shares = [share for layer in figures["expert_shares"] for share in layer]
    rows = [
        ["answers in bfloat16 that are those in float32", f"{figures['bfloat16_equal_answers']:.1%}"],
        ["answers with 4-bit weights that are those in float32", f"{figures['int4_equal_answers']:.1%}"],
        ["what experts take of an even share, from the least to the most", f"{min(shares):.2f} to {max(shares):.2f}"],
    ]
    return table(["", "found"], rows)
