"""What the commands share: progress bars, and errors as messages for programs that are no commands."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm
from transformers.utils import logging

from deepseek_vl_command.faults import run_with_messages

from ..checkpoints.tensors.writer import ByteProgress


def run_command(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Runs what a script is for, its errors as messages; `arguments.debug` says whether the traceback is shown.

    Returns:
        The exit status.
    """
    no_progress_bars()
    return run_with_messages(lambda: run(arguments), arguments.debug)


def no_progress_bars() -> None:
    """Keeps transformers' bars off the terminal; a command that wants them says so."""
    logging.disable_progress_bar()


@contextmanager
def byte_bar(label: str, total: int) -> Iterator[ByteProgress]:
    """A progress bar in bytes on the error stream; absent where that is no terminal."""
    with tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update
