"""Draws how the time of each stage compares with transformers' own classes, from results/speed.json."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from environment import RESULTS

CHART = Path(__file__).parent.parent / "docs" / "speed.svg"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes one bar per stage: ours over theirs.

    Args:
        rows: of `speed.json`.
        path: an SVG file.
    """
    names = [f"{row['stage']} ({row['dtype']})" for row in rows]
    ratios = [row["ratio"] for row in rows]
    mpl.rcParams |= {"svg.hashsalt": "speed", "svg.fonttype": "none"}  # the same file for the same figures
    figure = Figure(figsize=(8, 0.34 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, ratios, color="#1f5fa8")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color="#555555", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.15, max(ratios) + 0.15))
    figure.supxlabel("deepseek_vl_hf / transformers' own classes (less is better)", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Draws docs/speed.svg."""
    draw(json.loads((RESULTS / "speed.json").read_text(encoding="utf-8"))["rows"], CHART)


if __name__ == "__main__":
    main()
