"""The table of benchmarks/results/number_types.json."""

import json
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "number_types.json"
BASE = "bfloat16"


def number_types_table() -> str:
    """Each way's time, and its ratio to bfloat16 on the same processor."""
    kinds = json.loads(RESULT.read_text(encoding="utf-8"))["processor_kinds"]
    lines = [f"| stage | way | {' | '.join(f'processor {kind}' for kind in kinds)} |", "| --- | --- | --- | --- |"]
    first = next(iter(kinds.values()))["seconds"]
    for stage, found in first.items():
        for way in found:
            cells = [_cell(kind["seconds"][stage], way) for kind in kinds.values()]
            lines.append(f"| {stage} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(seconds: dict[str, float], way: str) -> str:
    if way not in seconds:
        return ""
    value = seconds[way]
    shown = f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
    return f"{shown} ({value / seconds[BASE]:.2f})"
