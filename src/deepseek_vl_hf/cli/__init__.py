"""The command `deepseek-vl`."""

import argparse
from collections.abc import Sequence

from . import chat, convert, demo, describe, quantize, verify_real
from .console import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="deepseek-vl", description="DeepSeek-VL models in transformers.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (chat, describe, demo, convert, quantize, verify_real):
        name = command.__name__.rpartition(".")[2].replace("_", "-")
        subparser = commands.add_parser(
            name, help=command.SUMMARY, description=command.DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    parsed = parser.parse_args(arguments)
    return run_command(parsed.run, parsed)
