"""The command `deepseek-vl`: reads the command line, and loads the package only when there is something to run.

Importing `deepseek_vl_hf` takes seconds, because it registers its classes in transformers. Help, the version and
mistakes in arguments must not wait for that, so this package stands beside it and imports the standard library alone.
"""

from collections.abc import Sequence
from importlib import import_module

from .arguments import parse
from .quiet import without_complaints_of_torchao

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and runs a command; returns the exit status.

    Raises:
        SystemExit: help or the version was asked for (0), or the arguments are wrong (2).
    """
    parsed = parse(arguments)
    with without_complaints_of_torchao():
        console = import_module("deepseek_vl_hf.cli.console")
        command = import_module(f"deepseek_vl_hf.cli.{parsed.command.replace('-', '_')}")
        status: int = console.run_command(command.run, parsed)
    return status
