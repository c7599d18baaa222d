"""`deepseek-vl quantize`: a checkpoint with 4-bit weights."""

import argparse
import sys
from functools import partial

import torch
from transformers.utils import logging

from ..checkpoints import quantize_checkpoint
from ..checkpoints.conversion.convert import no_report
from ..checkpoints.layouts.files import named_folder


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        ImportError, OSError, ValueError: see `quantize_checkpoint`.
    """
    if not arguments.quiet and sys.stderr.isatty():
        logging.enable_progress_bar()  # transformers shows how many weights are loaded and written
    quantize_checkpoint(
        named_folder(arguments.source),
        arguments.destination,
        group_size=arguments.group_size,
        device=arguments.device,
        dtype=getattr(torch, arguments.dtype),
        max_shard_size=arguments.max_shard_size,
        overwrite=arguments.overwrite,
        base_model=arguments.base_model,
        report=no_report if arguments.quiet else partial(print, flush=True),
    )
    return 0
