"""Converting a checkpoint between the original and the transformers layout."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..tensors.writer import ByteProgress, target_tensors, write_tensors
from .destination import check_destination, check_space, new_folder
from .jobs import TRANSFORMERS, Job, open_job
from .model_card import write_model_card
from .telling import size_text, table_of, words_of
from .verify import SAMPLE_PROMPT, SamplePrompt, compare_models, compare_tensors, figures, fits_in_memory

Report = Callable[[str], None]
DEFAULT_SHARD_SIZE = "5GB"

# Called with a label and a number of bytes; gives, inside a `with` block, what takes the bytes done.
ProgressBar = Callable[[str, int], AbstractContextManager[ByteProgress]]


def no_report(line: str) -> None:
    """Says nothing."""


def no_progress(label: str, total: int) -> AbstractContextManager[ByteProgress]:
    """Shows nothing."""
    return nullcontext(lambda num_bytes: None)


@dataclass(frozen=True)
class ConversionResult:
    """What was written.

    Attributes:
        folder: where.
        tensors: how many tensors.
        num_bytes: their size.
        dropped: how many source tensors were left out, by reason.
        not_finite: how many values of which source tensors are NaN or infinite.
        verification: figures of the verification; None without it.
    """

    folder: Path
    tensors: int
    num_bytes: int
    dropped: dict[str, int]
    not_finite: dict[str, int]
    verification: dict[str, Any] | None


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    to: str = TRANSFORMERS,
    dtype: torch.dtype | None = None,
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
    overwrite: bool = False,
    verify: bool = False,
    prompt: SamplePrompt | None = SAMPLE_PROMPT,
    base_model: str | None = None,
    report: Report = no_report,
    progress: ProgressBar = no_progress,
) -> ConversionResult:
    """Writes a checkpoint in the other layout: weights, config, tokenizer, processor, chat template and model card.

    Tensors are copied one after the other from where they lie, so memory stays small whatever the model's size. The
    source is only read. The result is put together beside the destination and moved there when it is complete, so the
    destination is complete or absent.

    Args:
        source: folder of a DeepSeek-VL checkpoint in the other layout.
        destination: folder to create; it must not exist, or be empty, unless `overwrite`.
        to: "transformers" or "original".
        dtype: type of the floating-point tensors; None keeps the source's.
        max_shard_size: largest size of a weight file, in bytes or as "5GB".
        overwrite: replace a checkpoint that is at the destination.
        verify: read the result again, compare every tensor with its source, and run a prompt through both where the
            model fits in memory.
        prompt: what to ask in order to verify; None to compare the tensors alone.
        base_model: Hub repository that the model card names as the origin; guessed from the source's name by default.
        report: receives a line of text for each step.
        progress: makes the progress bars.

    Raises:
        FileNotFoundError: a file is missing in `source`.
        FileExistsError: `destination` holds files.
        NothingToConvertError: `source` has the wanted layout already.
        OSError: the disk is full.
        ValueError: a file is damaged, the checkpoint is of another family, or the verification found a difference, NaN
            or infinity.
    """
    source, destination = Path(source), Path(destination).resolve()
    with open_job(source, to, dtype) as job:
        check_destination(source, destination, overwrite)
        total = sum(target.num_bytes for target in target_tensors(job.plan.tensors, dtype))
        check_space(destination, total)
        _report_job(job, report)
        with new_folder(destination, overwrite, report) as folder:
            with progress("Writing", total) as advance:
                not_finite = write_tensors(job.plan.tensors, folder, dtype, max_shard_size, advance)
            report_not_finite(not_finite, report, refuse=verify)
            job.write_files(folder)
            verification = _verify(job, source, folder, total, prompt, report, progress) if verify else None
            write_model_card(folder, job, source, verification, base_model)
    dropped = {reason: len(tensors) for reason, tensors in job.plan.dropped.items()}
    return ConversionResult(destination, len(job.plan.tensors), total, dropped, not_finite, verification)


def describe_conversion(
    source: str | Path, *, to: str = TRANSFORMERS, dtype: torch.dtype | None = None, report: Report
) -> None:
    """Reports what `convert_checkpoint` would write, as a table of tensors with sizes, and writes nothing.

    Args:
        source: see `convert_checkpoint`.
        to: see `convert_checkpoint`.
        dtype: see `convert_checkpoint`.
        report: receives the lines.

    Raises:
        FileNotFoundError, NothingToConvertError, ValueError: see `convert_checkpoint`.
    """
    with open_job(Path(source), to, dtype) as job:
        _report_job(job, report)
        targets = target_tensors(job.plan.tensors, dtype)
        for line in ("", *table_of(job.plan, targets), ""):
            report(line)
        total = size_text(sum(target.num_bytes for target in targets))
        report("A * stands for the numbers of layers and experts.")
        report(f"{len(targets)} tensors, {total}; nothing was written")


def report_not_finite(found: dict[str, int], report: Report, refuse: bool) -> None:
    """Says how many values are NaN or infinite, and where.

    Args:
        found: how many, by tensor.
        report: receives a line for each tensor.
        refuse: whether there may be none.

    Raises:
        ValueError: there are some, and there may be none.
    """
    if not found:
        return
    total = f"{sum(found.values())} values in {len(found)} tensors are NaN or infinite"
    report(f"Note: {total}:")
    for name, count in found.items():
        report(f"  {name}: {count}")
    if refuse:
        raise ValueError(
            f"{total}, such as {next(iter(found))!r}. The checkpoint is damaged, or its training diverged; download it "
            "again, or convert it without verifying it."
        )


def _report_job(job: Job, report: Report) -> None:
    report(
        f"Found {job.config.model_type}: {job.config.vision_config.num_hidden_layers} vision layers, "
        f"{job.config.text_config.num_hidden_layers} text layers"
    )
    for note in job.notes:
        report(f"Note: {note}")
    for line in words_of(job.plan):
        report(line)


def _verify(
    job: Job,
    source: Path,
    folder: Path,
    total: int,
    prompt: SamplePrompt | None,
    report: Report,
    progress: ProgressBar,
) -> dict[str, Any]:
    with progress("Verifying", total) as advance:
        tensors = compare_tensors(job, folder, advance)
    rounded = f", after rounding to {tensors.converted_to}" if tensors.converted_to else ""
    report(f"Verified {tensors.tensors} tensors: equal to the source{rounded}")
    if prompt is None:
        return figures(tensors, None)
    if not fits_in_memory(max(total, tensors.num_bytes)):
        report("The model does not fit in memory, so no prompt was run")
        return figures(tensors, None)
    (models,) = compare_models(source, folder, [prompt])
    if not models.identical:
        raise ValueError(f"Source and result answer a prompt differently: {models}.")
    report("Verified a prompt with a picture, run in bfloat16: ids, pixels, logits and greedy tokens are equal")
    return figures(tensors, models)
