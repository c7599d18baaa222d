"""`deepseek-vl train`: teaching a model conversations."""

import argparse
import os
import warnings
from functools import partial
from pathlib import Path

from accelerate import PartialState
from transformers.utils import logging

from ..training.processes import one_error
from ..training.recipes import Recipe
from ..training.run import train
from ..training.settings import TrainingSettings
from .console import count_bar


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        ImportError, OSError, ValueError: see `train`.
    """
    # Of arguments that nobody here has passed, and between libraries.
    logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # returns pictures' features, which nobody changes
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it is warned of where processes prepare the rows
    recipe = Recipe(arguments.lora, arguments.stage, arguments.full, arguments.int4, arguments.experts)
    same = (
        *("data", "model", "answers", "resume", "epochs", "max_steps", "batch_size", "device_batch_size"),
        *("learning_rate", "max_length", "truncate", "pack", "checkpointing", "dtype", "optimizer", "save_steps"),
        *("log_steps", "seed", "cpu"),
    )
    settings = TrainingSettings(
        recipe=recipe,
        output=Path(arguments.output),
        evaluation=arguments.eval,
        report_to=tuple(arguments.report_to),
        **{name: getattr(arguments, name) for name in same},
    )
    with one_error():
        train(settings, partial(print, flush=True), count_bar)
    PartialState().destroy_process_group()  # of which NCCL reminds at the end
    return 0
