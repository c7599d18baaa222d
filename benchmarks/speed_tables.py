"""The tables of docs/speed.md and of the README on stages and number types, from benchmarks/results/*.json."""

from typing import Any

from int4_tables import results, table

BASE = "bfloat16"


def amount(value: float, unit: str) -> str:
    """Seconds or bytes, with the digits that matter."""
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.{0 if value >= 0.1 else 1}f} ms"


def compared(model: str, rows: list[dict[str, Any]]) -> str:
    """Stages timed against transformers' own classes."""
    cells = [
        [
            row["stage"],
            row["dtype"],
            amount(row["deepseek_vl_hf"], row["unit"]),
            amount(row["transformers"], row["unit"]),
            f"{row['ratio']:.2f}",
        ]
        for row in rows
    ]
    return table([model, "type", "deepseek_vl_hf", "transformers", "ratio"], cells)


def speed_table() -> str:
    """DeepSeek-VL-Hybrid beside transformers' port."""
    return compared("DeepSeek-VL-Hybrid", results("speed.json")["rows"])


def speed_vl2_table() -> str:
    """DeepSeek-VL2 tiny beside the same parts of transformers."""
    return compared("DeepSeek-VL2 tiny", results("speed_vl2.json")["rows"])


def ocr_table() -> str:
    """DeepSeek-OCR's towers beside those of transformers."""
    return compared("DeepSeek-OCR", results("ocr.json")["encoding"]["rows"])


def ocr_pages_table() -> str:
    """DeepSeek-OCR's pages in batches, and what both rules against repetition take."""
    figures = results("ocr.json")
    batches, rules = figures["batches"], figures["rules"]
    speeds = batches["pages_per_second"]
    head = f"{batches['pages']} pages, {batches['new_tokens_per_page']} new tokens each, mode {batches['mode']}"
    lines = [[f"{head}, {way}", f"{60 * speed:.1f} pages per minute"] for way, speed in speeds.items()]
    share = f"{rules['share_beside_the_rest']:.1%} of the time of everything else"
    answer = f"an answer of {rules['new_tokens']} tokens, {rules['language_layers']} of 12 layers"
    return table(["what", "found"], [*lines, [f"both rules in {answer}", share]])


def number_types_table() -> str:
    """Each way to compute, and its ratio to bfloat16 on the same processor."""
    kinds = results("number_types.json")["processor_kinds"]
    stages = next(iter(kinds.values()))["seconds"]
    cells = [
        [stage, way, *(beside_base(kind["seconds"][stage], way) for kind in kinds.values())]
        for stage, ways in stages.items()
        for way in ways
    ]
    return table(["what", "way", *(f"processor {kind}" for kind in kinds)], cells)


def beside_base(seconds: dict[str, float], way: str) -> str:
    """A time and its ratio to bfloat16; empty where the processor has no such way."""
    return f"{amount(seconds[way], 'seconds')} ({seconds[way] / seconds[BASE]:.2f})" if way in seconds else ""
