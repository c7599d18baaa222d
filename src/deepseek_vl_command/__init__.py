"""The command `deepseek-vl`: reads the command line, and loads the package only when there is something to run.

Importing `deepseek_vl_hf` takes seconds, because it registers its classes in transformers. Help, the version and
mistakes in arguments must not wait for that, so this package stands beside it and imports the standard library alone.
"""

import argparse
from collections.abc import Sequence
from importlib import import_module

from . import doctor
from .arguments import parse
from .faults import run_with_messages
from .quiet import without_complaints_of_torchao

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and runs a command; returns the exit status.

    Raises:
        SystemExit: help or the version was asked for (0), the arguments are wrong (2), or SIGTERM came (143).
    """
    parsed = parse(arguments)
    return run_with_messages(lambda: _run(parsed), parsed.debug)


def _run(parsed: argparse.Namespace) -> int:
    if parsed.command == "doctor":  # it tells why the package cannot be loaded, so it stands on this side
        return doctor.run(parsed)
    with without_complaints_of_torchao():
        import_module("deepseek_vl_hf.cli.console").no_progress_bars()
        command = import_module(f"deepseek_vl_hf.cli.{parsed.command.replace('-', '_')}")
        status: int = command.run(parsed)
    return status
