"""Going on from an earlier run: which checkpoint, and whether it is whole and of the same model."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.trainer_utils import get_last_checkpoint

RECIPE = "recipe.json"
EXPERTS = ".mlp.experts."  # files hold one tensor for each, the model all in one
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def check_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    """Writes down what a run trains, or compares it with what the folder's earlier run trained.

    Raises:
        ValueError: the folder holds the run of another recipe.
    """
    path = folder / RECIPE
    if not path.exists():
        path.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        return
    before = _read_json(path)
    differing = [
        f"{key}: {before.get(key)!r} there, {now!r} now" for key, now in recipe.items() if before.get(key) != now
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a run of another recipe ({'; '.join(differing)}). Name another --output, or call with the "
            "same settings to go on with that run."
        )


def checkpoint_to_resume(folder: Path, chosen: Path | None, model: nn.Module) -> Path | None:
    """The checkpoint that was chosen, else the last one of the folder, else None; checked.

    Raises:
        ValueError: it is damaged, or of another model.
    """
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    checkpoint = chosen or (Path(last) if last else None)
    if checkpoint is not None:
        _check(checkpoint, model)
    return checkpoint


def _check(checkpoint: Path, model: nn.Module) -> None:
    missing = [name for name in FILES if not (checkpoint / name).is_file()]
    if missing:
        raise ValueError(
            f"{checkpoint} is no complete checkpoint: {', '.join(missing)} missing. Delete the folder to go on from "
            "the one before it, or name another with --resume-from."
        )
    try:
        with safe_open(checkpoint / "model.safetensors", "pt") as weights:
            found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.load(checkpoint / name, weights_only=True, map_location="cpu")
        _read_json(checkpoint / "trainer_state.json")
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{checkpoint} is damaged: {error}. Delete the folder to go on from the one before it, or name another "
            "with --resume-from."
        ) from error
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    names = {name for name in {*found, *expected} if EXPERTS not in name}
    differing = sorted(name for name in names if found.get(name) != expected.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{checkpoint} is of another model: {len(differing)} tensors differ, the first is {name}, "
            f"{found.get(name)} there and {expected.get(name)} here. Name another --output or --resume-from."
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected an object.")
    return content
