"""`deepseek-vl quantize`: a checkpoint with 4-bit weights."""

import argparse
import sys
from functools import partial

import torch
from transformers.utils import logging

from ..checkpoints import quantize_checkpoint
from ..checkpoints.conversion.convert import DEFAULT_SHARD_SIZE, no_report
from ..checkpoints.layouts.files import local_folder

SUMMARY = "write a checkpoint with 4-bit weights"
DESCRIPTION = """Writes a DeepSeek-VL checkpoint whose language model has 4-bit weights.

SRC is read layer by layer, in either layout. DST is complete or absent, whatever happens."""
DTYPES = ("bfloat16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes the command line."""
    parser.add_argument("source", metavar="SRC", help="folder or Hub repository of the checkpoint")
    parser.add_argument("destination", metavar="DST", help="folder to create")
    parser.add_argument(
        "--group-size",
        type=int,
        default=128,
        metavar="N",
        help="how many weights share a scale: 32, 64 or 128 (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu or cuda, where the result will run (default: cuda if there is one)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="type of all other weights (default: %(default)s)"
    )
    parser.add_argument(
        "--max-shard-size", metavar="SIZE", default=DEFAULT_SHARD_SIZE, help="of a weight file (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is at DST")
    parser.add_argument("--base-model", metavar="REPO", help="origin to name in the model card")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        ImportError, OSError, ValueError: see `quantize_checkpoint`.
    """
    if not arguments.quiet and sys.stderr.isatty():
        logging.enable_progress_bar()  # transformers shows how many weights are loaded and written
    quantize_checkpoint(
        local_folder(arguments.source),
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
