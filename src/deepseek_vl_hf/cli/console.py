"""What the commands share: progress bars, and errors as messages for programs that are no commands."""

import argparse
import sys
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


def bars_on_terminals() -> None:
    """Lets transformers and the Hub's client show what they load, fetch and write, where a person sees it."""
    if sys.stderr.isatty():
        logging.enable_progress_bar()


@contextmanager
def byte_bar(label: str, total: int) -> Iterator[ByteProgress]:
    """A progress bar in bytes on the error stream; absent where that is no terminal."""
    with tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update


def count_bar(label: str) -> Callable[[int, int], None]:
    """A progress bar on the error stream, told how many are done of how many; absent where that is no terminal."""
    bar = tqdm(desc=label, leave=False, disable=None)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return update
