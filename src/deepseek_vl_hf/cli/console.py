"""What the commands share: running one with its errors as messages, and progress bars."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from tqdm.auto import tqdm
from transformers.utils import logging

from ..checkpoints.tensors.writer import ByteProgress

STOPPED_BY_CONTROL_C = 130
STOPPED_BY_SIGTERM = 143


def run_command(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Runs a command; errors that a user can mend become one message. Returns the exit status."""
    logging.disable_progress_bar()
    try:
        with _cleaning_up_on_sigterm():
            return run(arguments)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED_BY_CONTROL_C


@contextmanager
def _cleaning_up_on_sigterm() -> Iterator[None]:
    """Lets `with` blocks end when the process is asked to, as they do for Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # only that one may ask for signals
        yield
        return

    def stop(*_: Any) -> NoReturn:
        sys.exit(STOPPED_BY_SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def byte_bar(label: str, total: int) -> Iterator[ByteProgress]:
    """A progress bar in bytes on the error stream; absent where that is no terminal."""
    with tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update
