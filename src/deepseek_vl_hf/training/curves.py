"""The loss of a training run as JSON and, where matplotlib is installed, as a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOGGED = ("step", "epoch", "loss", "eval_loss", "eval_exact", "learning_rate", "grad_norm")
SMOOTHING = 10  # logged values that one point of the drawn curve averages


def write_curves(history: Sequence[dict[str, Any]], folder: Path, parts: Sequence[str] = ()) -> None:
    """Writes `loss.json`, and `loss.png` where matplotlib is installed.

    Args:
        history: the log of transformers' `Trainer`.
        folder: where both go.
        parts: of the loss that are logged as well; where there are some, the first one is drawn in its place.
    """
    entries = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    points = [{name: entry[name] for name in (*LOGGED, *parts) if name in entry} for entry in entries]
    (folder / "loss.json").write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    if any("loss" in point for point in points):
        _draw(points, folder / "loss.png", (*parts[:1], "loss"))


def _draw(points: list[dict[str, Any]], path: Path, names: Sequence[str]) -> None:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        return
    steps, losses = _series(points, *names)
    means = [sum(losses[max(0, end - SMOOTHING) : end]) / min(end, SMOOTHING) for end in range(1, len(losses) + 1)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#b9cfe8", linewidth=0.8)
    axes.plot(steps, means, color="#1f5fa8", linewidth=1.6, label="training")
    if any("eval_loss" in point for point in points):
        axes.plot(*_series(points, "eval_loss"), "o-", color="#c2571a", linewidth=1.2, label="evaluation")
        axes.legend()
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss on the answers (nats per token)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _series(points: list[dict[str, Any]], *names: str) -> tuple[list[int], list[float]]:
    """Steps, and the first of these values that each has."""
    found = [(point["step"], point[name]) for point in points for name in [*filter(point.__contains__, names)][:1]]
    return [step for step, _ in found], [value for _, value in found]
