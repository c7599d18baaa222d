"""The arguments of `describe` that are about many pictures."""

import argparse
from pathlib import Path

from . import values

BATCH_SIZE = 8
# Of a file of answers; what is written into it follows from them.
JSON_LINES, CSV = ".jsonl", ".csv"


def add_many(parser: argparse.ArgumentParser) -> None:
    """Describes the options that lead to a file of answers."""
    group = parser.add_argument_group("many pictures")
    group.add_argument("--recursive", action="store_true", help="also take pictures from subfolders")
    group.add_argument(
        "--output",
        type=_file_of_answers,
        metavar="FILE",
        help=f"write the answers into this file, as JSON lines ({JSON_LINES})\nor CSV ({CSV}), and show a progress bar",
    )
    group.add_argument("--resume", action="store_true", help="continue the --output of an earlier run")
    group.add_argument(
        "--batch-size",
        type=values.count,
        metavar="N",
        help=f"pictures that the model reads together (default: {BATCH_SIZE})",
    )


def check_many(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """Refuses options that do not go together, and fills in the default of `--batch-size`.

    Raises:
        SystemExit: they do not.
    """
    if parsed.output is None:
        for option, given in (("--resume", parsed.resume), ("--batch-size", parsed.batch_size)):
            if given:
                parser.error(f"found {option} without --output; name the file of answers with --output FILE")
    for option, given in (("--json", parsed.json), ("--together", parsed.together)):
        if parsed.output is not None and given:
            parser.error(f"found {option} with --output, which writes one answer per picture; leave one of them out")
    parsed.batch_size = parsed.batch_size or BATCH_SIZE


def question_in_file(name: str) -> str:
    """A `type` for argparse: the text of a file, without blank lines around it."""
    try:
        text = Path(name).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else _reason(error)
        raise argparse.ArgumentTypeError(f"found {name!r}, but {reason}; expected a text file in UTF-8") from error
    if not text:
        raise argparse.ArgumentTypeError(f"found {name!r}, which holds no text; write the question into it")
    return text


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return strerror[0].lower() + strerror[1:] if strerror else str(error)


_file_of_answers = values.checked(
    values.name,
    lambda name: Path(name).suffix.lower() in (JSON_LINES, CSV),
    f"a name that ends in {JSON_LINES} (JSON lines) or {CSV}",
)
