"""`deepseek-vl convert`: a checkpoint in the other layout."""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi

from ..checkpoints import NothingToConvertError, convert_checkpoint, describe_conversion
from ..checkpoints.conversion.convert import no_progress, no_report
from ..checkpoints.conversion.telling import size_text
from ..checkpoints.layouts.files import named_folder
from .console import bars_on_terminals, byte_bar


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        OSError, ValueError: see `convert_checkpoint`.
    """
    report = no_report if arguments.quiet else partial(print, flush=True)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    if not arguments.quiet:
        bars_on_terminals()
    source = named_folder(arguments.source)
    start = time.perf_counter()
    try:
        if arguments.dry_run:
            describe_conversion(source, to=arguments.to, dtype=dtype, report=print)
            return 0
        if arguments.push_to_hub:
            _on_hub(lambda api: api.whoami())  # asks for a login before the work, not after it
        result = convert_checkpoint(
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
    seconds = time.perf_counter() - start
    report(
        f"Wrote {arguments.destination}: {result.tensors} tensors, {size_text(result.num_bytes)}, in {seconds:.1f} s"
    )
    if arguments.push_to_hub:
        address = _push(arguments.destination, arguments.push_to_hub)
        report(f"Uploaded to {address}")
    report(f"Next: deepseek-vl chat {shlex.quote(arguments.destination)}")
    return 0


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
