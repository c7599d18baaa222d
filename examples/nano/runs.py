"""What the training scripts do alike: settings of a run, and the trained model's files."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.cpu.dtypes import fast_dtype

CHECKPOINTS = 20  # per run; the ones before the rate falls are where a longer run can go on


def training_arguments(options: argparse.Namespace, folder: Path, steps: int, batch_size: int) -> TrainingArguments:
    """Settings of transformers' `Trainer`, whose checkpoints go to `folder`."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=options.learning_rate,
        max_grad_norm=1.0,
        bf16=fast_dtype() == torch.bfloat16,  # elsewhere it is nine times as slow as float32
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="sequential",  # pictures grow harder row by row
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=10,
        save_steps=max(1, steps // CHECKPOINTS),
        seed=options.seed,
        report_to=[],
    )


def export(model: Any, processor: Any, folder: Path, card: Path) -> None:
    """Writes the model in float16 and the original layout, in which it also loads directly.

    Args:
        model: the trained model.
        processor: its processor.
        folder: where they go.
        card: the model card that becomes the README.
    """
    # Its answers are short and exact: nothing in them is to be drawn at random.
    model.generation_config.update(do_sample=False, repetition_penalty=1.0)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        model.to(torch.float16).save_pretrained(scratch)
        processor.save_pretrained(scratch)
        convert_checkpoint(scratch, folder, to="original", overwrite=folder.exists())
    (folder / "README.md").write_text(card.read_text(encoding="utf-8"), encoding="utf-8")
