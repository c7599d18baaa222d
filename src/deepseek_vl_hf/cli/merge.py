"""`deepseek-vl merge`: a model and its adapters as one checkpoint."""

import argparse
from functools import partial

import torch

from ..checkpoints.conversion.convert import no_report
from ..training.result import merge_adapters


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        ImportError, OSError, ValueError: see `merge_adapters`.
    """
    merge_adapters(
        arguments.adapters,
        arguments.output,
        model=arguments.model,
        to=arguments.to,
        dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
        overwrite=arguments.overwrite,
        report=no_report if arguments.quiet else partial(print, flush=True),
    )
    return 0
