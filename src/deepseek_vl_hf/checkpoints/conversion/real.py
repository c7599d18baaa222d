"""Checking a published checkpoint with its real weights: names, shapes, bytes and answers in both layouts."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..layouts.files import CONFIG, in_folder, read_json, require
from ..layouts.original import MODEL_TYPES
from .convert import ProgressBar, Report, convert_checkpoint, no_progress, no_report
from .jobs import ORIGINAL, TRANSFORMERS
from .verify import ModelComparison, SamplePrompt, compare_models, fits_in_memory

REAL_PROMPTS = (
    SamplePrompt(1, "Describe this image."),
    SamplePrompt(1, "这张图片里有什么？"),
    SamplePrompt(2, "What is the difference between the two pictures?"),
    SamplePrompt(0, "What is the capital of France?"),
)


def verify_checkpoint(
    folder: Path,
    work_folder: Path | None = None,
    prompts: Sequence[SamplePrompt] = REAL_PROMPTS,
    report: Report = no_report,
    progress: ProgressBar = no_progress,
) -> dict[str, Any]:
    """Converts a checkpoint to the other layout in a temporary folder and compares the two.

    Every name and shape is checked against the model of the config, every tensor against its source; then fixed prompts
    run through both, if the model fits in memory.

    Args:
        folder: the checkpoint, in either layout.
        work_folder: where the temporary folder goes; it takes as much disk as the checkpoint.
        prompts: what to ask.
        report: receives a line of text for each step.
        progress: makes the progress bars.

    Returns:
        Figures as plain values; `passed` says whether nothing differs.

    Raises:
        FileNotFoundError, OSError, ValueError: see `convert_checkpoint`.
    """
    is_original = read_json(require(in_folder(folder), CONFIG)).get("model_type") in MODEL_TYPES
    to = TRANSFORMERS if is_original else ORIGINAL
    with tempfile.TemporaryDirectory(dir=work_folder) as temporary:
        result = convert_checkpoint(
            folder, Path(temporary) / "converted", to=to, verify=True, prompt=None, report=report, progress=progress
        )
        models: list[ModelComparison] = []
        report(f"Converted to the {to} layout, in a temporary folder")
        if fits_in_memory(result.num_bytes):
            report(f"Running prompts through both layouts: {len(prompts)}. The model is loaded twice.")
            models = compare_models(folder, result.folder, prompts)
        else:
            report("The model does not fit in memory, so no prompt was run")
    for comparison in models:
        report(f"{comparison.question!r} -> {comparison.answer!r}, identical in both layouts: {comparison.identical}")
    return {
        "layout": ORIGINAL if is_original else TRANSFORMERS,
        "tensors_written": result.tensors,
        "bytes_written": result.num_bytes,
        "dropped": result.dropped,
        "not_finite": result.not_finite,
        "tensors": (result.verification or {}).get("tensors"),
        "prompts": [{**asdict(comparison), "identical": comparison.identical} for comparison in models],
        "prompts_were_run": bool(models),
        "passed": all(comparison.identical for comparison in models),
    }
