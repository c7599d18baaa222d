"""What a run leaves: its adapters, or a checkpoint in which what did not learn is the source's to the bit."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from ..checkpoints import convert_checkpoint
from ..checkpoints.conversion.convert import no_report
from ..checkpoints.conversion.destination import check_destination, new_folder
from ..checkpoints.conversion.jobs import ORIGINAL, TRANSFORMERS
from ..checkpoints.layouts.files import ADAPTERS, CONFIG, base_folder, named_folder, read_json
from ..checkpoints.layouts.small_files import open_processor
from ..hf.zero import load_whole_from_here_on
from .recipes import part_of
from .runs import RUN, fingerprint_of_model, read_run
from .trainer import Report

# By these files the loaders know a folder, so they come last.
CONFIGS = (CONFIG, ADAPTERS)
# Where a result stands until it is whole.
UNFINISHED = ".result.partial"
# What Trainer leaves of itself, as a pickle, and peft's card, which is a form to fill in.
NOT_KEPT = ("training_args.bin", "README.md")


def write_result(trainer: Any, source: Path, parts: frozenset[str], folder: Path) -> None:
    """Writes what was learned into a run's folder; all processes call it.

    Args:
        trainer: at its end.
        source: the checkpoint that the run began with.
        parts: whose weights learned; none where adapters did.
        folder: of the run.
    """
    scratch = folder / UNFINISHED
    if trainer.is_world_process_zero():
        shutil.rmtree(scratch, ignore_errors=True)
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(scratch))
    if trainer.is_world_process_zero():
        load_whole_from_here_on()
        if parts:
            _put_into_source(source, scratch, parts)
        for name in NOT_KEPT:
            (scratch / name).unlink(missing_ok=True)
        _move(scratch, folder)
    trainer.accelerator.wait_for_everyone()


def _put_into_source(source: Path, trained: Path, parts: frozenset[str]) -> None:
    """Replaces trained weights by those of the source, in its type, with what learned put into them."""
    model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto")
    files = sorted(trained.glob("*.safetensors"))
    for file in files:
        learned = {name: tensor for name, tensor in load_file(file).items() if part_of(name) in parts}
        model.load_state_dict(learned, strict=False)
    for file in (*files, *trained.glob("*.safetensors.index.json")):
        file.unlink()
    model.save_pretrained(trained)


def _move(source: Path, destination: Path) -> None:
    for path in sorted(source.iterdir(), key=lambda path: path.name in CONFIGS):
        path.replace(destination / path.name)
    source.rmdir()


def merge_adapters(
    folder: str | Path,
    destination: str | Path,
    *,
    model: str | None = None,
    to: str = TRANSFORMERS,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    report: Report = no_report,
) -> None:
    """Writes a checkpoint with the weights of a model and of its adapters added up.

    Args:
        folder: of the adapters.
        destination: the folder to create; complete or absent, whatever happens.
        model: folder or Hub repository of the base model; by default the one that the adapters name.
        to: "transformers" or "original".
        dtype: of the weights; by default the base model's.
        overwrite: replace a checkpoint that is at the destination.
        report: receives a line of text for each step.

    Raises:
        ImportError: peft is not installed.
        OSError: there are no adapters, no base model, or no room.
        ValueError: the base model is another one than the adapters were trained on, or has 4-bit weights.
    """
    folder, destination = Path(folder), Path(destination).resolve()
    if not (folder / ADAPTERS).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {ADAPTERS}, so there are no adapters to merge. Name the --output of a run with --lora "
            "that has ended, or one of its checkpoints."
        )
    base = named_folder(model) if model else base_folder(folder)
    _check_base(folder, base)
    check_destination(folder, destination, overwrite)
    check_destination(base, destination, overwrite)
    with _merged(folder, base, dtype) as merged:
        report(f"Added the adapters in {folder} to {base}")
        with tempfile.TemporaryDirectory(dir=_made(destination.parent)) as scratch:
            merged.save_pretrained(scratch)
            open_processor(folder).save_pretrained(scratch)
            if to == ORIGINAL:
                convert_checkpoint(scratch, destination, to=to, overwrite=overwrite)
            else:
                with new_folder(destination, overwrite, report) as new:
                    shutil.copytree(scratch, new, dirs_exist_ok=True)
    report(f"Wrote {destination}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_base(folder: Path, base: Path) -> None:
    """Raises ValueError if adapters were trained on another model, or on one that they cannot be added to."""
    run = next((read_run(where) for where in (folder, folder.parent) if (where / RUN).is_file()), {})
    trained_on = run.get("model")
    if trained_on not in (None, fingerprint_of_model(base)):
        raise ValueError(
            f"The adapters in {folder} were trained on other weights than those in {base}. Name the model that they "
            "were trained on with --model."
        )
    if "quantization_config" in read_json(base / CONFIG):
        raise ValueError(
            f"{base} has quantized weights, to which nothing can be added. Name the checkpoint that it was "
            "made of with --model."
        )


@contextmanager
def _merged(folder: Path, base: Path, dtype: torch.dtype | None) -> Iterator[Any]:
    try:
        from peft import PeftModel  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("Adapters need peft: pip install 'peft>=0.18'") from error
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype or "auto")
    yield PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)
