"""What the commands share: running one with its errors as messages, and progress bars."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from tqdm.auto import tqdm
from transformers.utils import logging

from ..checkpoints.writer import Progress

STOPPED_BY_CONTROL_C = 130
STOPPED_BY_SIGTERM = 143


def run_command(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Runs a command; errors that a user can mend become one message. Returns the exit status."""
    signal.signal(signal.SIGTERM, _exit)
    logging.disable_progress_bar()
    try:
        return run(arguments)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED_BY_CONTROL_C


def _exit(*_: Any) -> NoReturn:
    """Lets `with` blocks and `finally` clean up when the process is asked to end."""
    sys.exit(STOPPED_BY_SIGTERM)


@contextmanager
def byte_bar(label: str, total: int) -> Iterator[Progress]:
    """A progress bar in bytes on the error stream; absent where that is no terminal."""
    with tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update
