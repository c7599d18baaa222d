"""`deepseek-vl convert`: a checkpoint in the other layout."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi

from ..checkpoints import NothingToConvertError, convert_checkpoint, describe_conversion
from ..checkpoints.conversion.convert import DEFAULT_SHARD_SIZE, no_progress, no_report
from ..checkpoints.conversion.jobs import ORIGINAL, TRANSFORMERS
from ..checkpoints.layouts.files import local_folder
from .console import byte_bar, run_command

SUMMARY = "convert a checkpoint to the transformers layout, or back"
DESCRIPTION = """Converts a DeepSeek-VL checkpoint between the original and the transformers layout.

SRC is only read. DST is complete or absent, whatever happens. Original checkpoints also load without conversion."""
DTYPES = ("float16", "bfloat16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes the command line."""
    parser.add_argument("source", metavar="SRC", help="folder or Hub repository of the checkpoint")
    parser.add_argument("destination", metavar="DST", nargs="?", help="folder to create")
    parser.add_argument(
        "--to", choices=(TRANSFORMERS, ORIGINAL), default=TRANSFORMERS, help="layout to write (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights (default: that of SRC)")
    parser.add_argument(
        "--max-shard-size", metavar="SIZE", default=DEFAULT_SHARD_SIZE, help="of a weight file (default: %(default)s)"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read DST again, compare every tensor with SRC,\nand run a prompt through both if memory allows",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what becomes of each tensor; write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is at DST")
    parser.add_argument("--base-model", metavar="REPO", help="origin to name in the model card")
    parser.add_argument("--push-to-hub", metavar="REPO", help="upload DST to this Hub repository")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        OSError, ValueError: see `convert_checkpoint`.
    """
    _check(arguments)
    report = no_report if arguments.quiet else partial(print, flush=True)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    source = local_folder(arguments.source)
    try:
        if arguments.dry_run:
            describe_conversion(source, to=arguments.to, dtype=dtype, report=print)
            return 0
        if arguments.push_to_hub:
            _on_hub(lambda api: api.whoami())  # asks for a login before the work, not after it
        convert_checkpoint(
            source,
            arguments.destination,
            to=arguments.to,
            dtype=dtype,
            max_shard_size=arguments.max_shard_size,
            overwrite=arguments.overwrite,
            verify=arguments.verify,
            base_model=arguments.base_model or (None if Path(arguments.source).is_dir() else arguments.source),
            report=report,
            progress=no_progress if arguments.quiet else byte_bar,
        )
    except NothingToConvertError as nothing:
        print(f"{nothing} Nothing was written or uploaded.", file=sys.stderr)
        return 0
    if arguments.push_to_hub:
        address = _push(arguments.destination, arguments.push_to_hub)
        report(f"Uploaded to {address}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.destination is None and not arguments.dry_run:
        raise ValueError("DST is missing. Name the folder to create, or pass --dry-run.")
    if arguments.dry_run and arguments.push_to_hub:
        raise ValueError("Found --dry-run and --push-to-hub; pass one of them.")


def _push(folder: str, repository: str) -> str:
    address = _on_hub(lambda api: api.create_repo(repository, exist_ok=True))
    message = "Convert the checkpoint"
    _on_hub(lambda api: api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message))
    return str(address)


def _on_hub(action: Callable[[HfApi], Any]) -> Any:
    """Does something on the Hub; its client raises errors of several libraries."""
    try:
        return action(HfApi())
    except Exception as error:
        raise OSError(
            f"The Hub did not take part: {error}. Log in with `hf auth login`, or try again later."
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command on its own, for the script in `convert/`; returns the exit status."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser)
    return run_command(run, parser.parse_args(arguments))
