"""What becomes of errors and signals while a command runs: one line for a person, an exit status for a program."""

import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

# As a shell says it of programs that a signal ended.
STOPPED_BY_CONTROL_C = 130
READER_IS_GONE = 141
STOPPED_BY_SIGTERM = 143

# What the package and the libraries raise about files, arguments and this machine; the message is for the user.
EXPECTED = (ImportError, OSError, ValueError)
# Of the messages of others, which may hold whole tables.
LONGEST_REASON = 300


def run_with_messages(run: Callable[[], int], debug: bool) -> int:
    """Runs something; errors become one line on the error stream. Returns the exit status.

    Args:
        run: gives the exit status.
        debug: whether the traceback is shown as well.

    Raises:
        SystemExit: the process was asked to end (SIGTERM), or `run` raised it.
    """
    _settle_streams()
    try:
        with _leaving_on_sigterm():
            status = run()
            sys.stdout.flush()  # else a full disk behind it would be noticed when nobody can tell any more
            return status
    except BrokenPipeError:
        return READER_IS_GONE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED_BY_CONTROL_C
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    finally:
        _give_up_broken_output()


def message_of(error: Exception) -> str:
    """What a user is told of an error."""
    kind, reason = type(error).__name__, str(error)
    short = one_line(reason)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in reason:
        detail = f" ({short})" if short else ""
        return (
            f"There is not enough memory{detail}. Try a smaller model, fewer pictures or, where it is offered, --int4."
        )
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, EXPECTED):
        return reason or kind
    return f"unexpected {kind}: {short or 'without a message'}. --debug shows the traceback."


def one_line(text: str) -> str:
    """A message of somebody else, in one line and not too long."""
    line = re.sub(r"\s+", " ", text).strip()
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]} ..."


@contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
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


def _settle_streams() -> None:
    """Streams that were closed lead nowhere from here on, and characters that a terminal does not know are escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_up_broken_output() -> None:
    """What cannot be written is dropped here: at its end the interpreter would try again, and complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
