"""`deepseek-vl quantize`: a checkpoint with 4-bit weights."""

import argparse
from functools import partial

import torch

from ..checkpoints import quantize_checkpoint
from ..checkpoints.conversion.convert import no_report
from ..checkpoints.layouts.files import named_folder
from .console import bars_on_terminals


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        ImportError, OSError, ValueError: see `quantize_checkpoint`.
    """
    if not arguments.quiet:
        bars_on_terminals()
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
