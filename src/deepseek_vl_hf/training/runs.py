"""A run's folder: what was trained there, and the checkpoint from which it goes on.

OUT/run.json             model, data and recipe; a run goes on with the same alone
OUT/checkpoint-N/        what transformers' Trainer writes on the way; trainer_state.json comes last
OUT/loss.json, loss.png  the loss so far
OUT/*                    the result, once the run has ended
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

RUN = "run.json"
# Of a fingerprint, as many digits are kept.
FINGERPRINT = 16
STATE = "trainer_state.json"
SCHEDULER, OPTIMIZER = "scheduler.pt", "optimizer.pt"
# What is in a checkpoint of processes that share a model's weights, by the name that tells it: FSDP's shares, FSDP's
# wholes, DeepSpeed's.
SHARED: dict[str, tuple[str, ...]] = {
    "pytorch_model_fsdp_0": ("pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata"),
    "pytorch_model_fsdp.bin": ("pytorch_model_fsdp.bin", "optimizer.bin"),
    "latest": (),
}
# Zip archives of torch; a cut one has no table at its end. Other files are written when all else is there.
ARCHIVES = (".pt", ".bin")
FINISHED = "finished"


def fingerprint_of_model(folder: Path) -> str:
    """Tells a checkpoint from others: by its config and the beginnings of its weight files, which hold all shapes."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}".encode() + file.read(2**20))
    return digest.hexdigest()[:FINGERPRINT]


def begin(folder: Path, run: dict[str, Any], resume: bool) -> bool:
    """Writes down what a run trains, or compares it with what the folder's run trained.

    Args:
        folder: the run's; it is made.
        run: what decides its course.
        resume: whether an earlier run is to go on.

    Returns:
        Whether the run is finished already.

    Raises:
        FileExistsError: the folder holds something, and nothing is to go on.
        ValueError: it holds the run of another model, other data or another recipe.
    """
    path = folder / RUN
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} holds something other than a run of this command. Name another --output.")
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, run)
        return False
    if not resume:
        raise FileExistsError(f"{folder} holds a run. Pass --resume to continue it, or name another --output.")
    before = read_run(folder)
    differing = [f"{key}: {before.get(key)!r} there, {now!r} now" for key, now in run.items() if before.get(key) != now]
    if differing:
        raise ValueError(
            f"{folder} holds a run of something else ({'; '.join(differing)}). Pass the same model, data and settings "
            "to continue it, or name another --output."
        )
    return bool(before.get(FINISHED))


def end(folder: Path) -> None:
    """Writes down that a run's result is complete."""
    _write(folder / RUN, {**read_run(folder), FINISHED: True})


def read_run(folder: Path) -> dict[str, Any]:
    """What a folder's run trains.

    Raises:
        ValueError: its run.json is damaged.
    """
    try:
        content = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / RUN} is not a JSON file: {error}. Name another --output.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{folder / RUN} holds a {type(content).__name__}; expected an object. Name another --output.")
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    """All of a file, or what was there before."""
    new = path.with_suffix(".partial")
    new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def last_complete_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint from which a run goes on; None to begin anew.

    Returns:
        Its folder, and for each later one that was passed over the reason.
    """
    skipped: list[str] = []
    found = [(int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-*") if _has_number(path)]
    for _, path in sorted(found, reverse=True):
        reason = _fault_of(path)
        if reason is None:
            return path, skipped
        skipped.append(f"{path.name} is passed over: {reason}")
    return None, skipped


def _has_number(path: Path) -> bool:
    return path.name.rpartition("-")[2].isdecimal()


def _fault_of(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be gone on from; None if it can."""
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"it is incomplete, its {STATE} is missing or damaged"
    shared = next((files for name, files in SHARED.items() if (checkpoint / name).exists()), None)
    for name in (SCHEDULER, *((OPTIMIZER,) if shared is None else shared)):
        if not _is_whole(checkpoint / name):
            return f"its {name} is missing or damaged"
    return _fault_of_weights(checkpoint) if shared is None else None


def _is_whole(path: Path) -> bool:
    return zipfile.is_zipfile(path) if path.suffix in ARCHIVES else path.is_file()


def _fault_of_weights(checkpoint: Path) -> str | None:
    weights = [*checkpoint.glob("*.safetensors")]
    try:
        for path in weights:
            with safe_open(path, "pt"):
                pass
    except (SafetensorError, OSError) as error:
        return f"its weights are damaged ({error})"
    return None if weights else "it holds no weights"
