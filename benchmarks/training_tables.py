"""The tables of docs/training.md on memory and time, from benchmarks/results/training*.json."""

from collections.abc import Iterator
from typing import Any

from int4_tables import results, table

PORT, SAME_ROWS, OURS = "transformers", "deepseek_vl_hf, same rows", "deepseek_vl_hf"
MEASURED = {
    "seconds": "a step",
    "peak_bytes": "most memory",
    "peak_beyond_kept_bytes": "the same, beyond weights, gradients and optimizer",
}


def gigabytes(number: float) -> str:
    """With as many digits as matter beside others."""
    return f"{number / 1e9:.{0 if number >= 1e11 else 1 if number >= 1e8 else 2}f} GB"


def beside(usual: float, thrifty: float) -> str:
    """A figure, and in parentheses that of what saves memory."""
    return f"{gigabytes(usual)} ({gigabytes(thrifty)})"


def memory_table() -> str:
    """What each recipe needs at the published sizes, computed."""
    head = ["model", "recipe", "learning", "weights", "gradients", "AdamW (8 bits)", "a sequence (`--checkpointing`)"]
    head += ["in all (with both)", "measured on a GPU"]
    return table(head, [*_memory_rows(results("training_memory.json")["bytes"])])


def _memory_rows(sizes: dict[str, Any]) -> Iterator[list[str]]:
    for size, recipes in sizes.items():
        alike: dict[tuple[int, ...], list[str]] = {}
        for recipe, found in recipes.items():
            alike.setdefault(tuple(found.values()), []).append(f"`{recipe}`")
        for values, names in alike.items():
            found = dict(zip(next(iter(recipes.values())), values, strict=True))
            kept = found["weights"] + found["gradients"]
            # The step's own numbers come when those of the sequence are gone.
            usual = kept + found["adamw"] + max(found["sequence"], found["step_of_adamw_torch"])
            thrifty = kept + found["adamw_8bit"] + found["sequence_with_checkpointing"]
            yield [
                size,
                ", ".join(names),
                f"{found['learning'] / 1e6:,.0f} M",
                gigabytes(found["weights"]),
                gigabytes(found["gradients"]),
                beside(found["adamw"], found["adamw_8bit"]),
                beside(found["sequence"], found["sequence_with_checkpointing"]),
                beside(usual, thrifty),
                "not measured",
            ]


def check_table() -> str:
    """What was counted for a small model, and what it took."""
    rows = []
    for row in results("training_memory.json")["check"]:
        name = "with `--checkpointing`" if row["checkpointing"] else "without"
        rows.append([name, *(f"{row[way] / 1e9:.2f} GB" for way in ("counted", "measured"))])
    return table(["a small model's sequence", "computed", "measured on a CPU"], rows)


def compared_table() -> str:
    """Training beside a plain `Trainer` on transformers' own classes."""
    rows = []
    for row in results("training.json")["rows"]:
        for figure, name in MEASURED.items():
            found, ratios = row[figure], row["ratios"][figure]
            shown = {way: f"{value:.1f} s" if figure == "seconds" else gigabytes(value) for way, value in found.items()}
            ours = (f"{shown[way]} ({ratios[way]:.2f})" for way in (SAME_ROWS, OURS))
            rows.append([row["recipe"], name, shown[PORT], *ours])
    return table(["recipe", "", "transformers", "same rows", "one conversation"], rows)
