"""The loss of a training run as JSON and as a picture."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

LOGGED = ("step", "loss", "answer_loss", "cell_loss")
SMOOTHING = 10  # logged values that one point of the drawn curve averages


def write_curves(history: list[dict[str, Any]], folder: Path) -> None:
    """Writes `loss.json` and `loss.png`.

    Args:
        history: the log of transformers' `Trainer`.
        folder: where both go.
    """
    points = [{name: entry[name] for name in LOGGED if name in entry} for entry in history if "loss" in entry]
    (folder / "loss.json").write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    if points:
        losses = [point.get("answer_loss", point["loss"]) for point in points]
        _draw([point["step"] for point in points], losses, folder / "loss.png")


def _draw(steps: list[int], losses: list[float], path: Path) -> None:
    means = [sum(losses[max(0, end - SMOOTHING) : end]) / min(end, SMOOTHING) for end in range(1, len(losses) + 1)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#b9cfe8", linewidth=0.8)
    axes.plot(steps, means, color="#1f5fa8", linewidth=1.6)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss on the answers (nats per token)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
