"""The arguments of `ocr`."""

import argparse
import re
import sys
from collections.abc import Callable

from . import values

# What the help shows of the package is settled there; tests/integration/test_ocr_command.py compares.
TASKS = ("document", "ocr", "free", "figure", "describe", "locate")
MODES = ("tiny", "small", "base", "large", "gundam", "gundam-m")
MODE = "gundam"
MAX_NEW_TOKENS = 8192
BATCH_SIZE = 4
OF_PICTURES, OF_PDFS = (30, 90), (20, 50)

_prompt = values.checked(values.text, lambda text: bool(text.strip()), "the text of a prompt")


def add_ocr(parser: argparse.ArgumentParser, add_loading: Callable[[argparse.ArgumentParser], None]) -> None:
    """Describes the command line; `add_loading` describes what commands with a model share."""
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="picture (file or URL), PDF file, or folder with such files",
    )
    parser.add_argument(
        "--model", type=values.name, required=True, help="folder or Hub repository of a DeepSeek-OCR model"
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        metavar="NAME",
        help="one of the authors' prompts: document (Markdown with layout,\nthe default), ocr (lines with places), "
        "free (text alone), figure,\ndescribe, locate (finds what --prompt names)",
    )
    parser.add_argument("-p", "--prompt", type=_prompt, help="another prompt, or what locate looks for")
    parser.add_argument(
        "--mode", choices=MODES, default=MODE, help="how finely pages are seen (default: %(default)s, in tiles)"
    )
    parser.add_argument(
        "--pages", type=page_ranges, metavar="RANGES", help="pages of PDF and TIFF files, such as 3-7,12"
    )
    parser.add_argument("--recursive", action="store_true", help="also read the folders in folders")
    parser.add_argument("--json", action="store_true", help="print a JSON object per page; --output writes them anyway")
    _add_output(parser.add_argument_group("a folder of results"))
    _add_answering(parser.add_argument_group("answers"))
    add_loading(parser)


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output",
        type=values.name,
        metavar="OUT",
        help="write Markdown, figures and JSON lines into this folder, and\nshow a progress bar",
    )
    group.add_argument("--resume", action="store_true", help="go on with the --output of an earlier run")
    group.add_argument("--boxes", action="store_true", help="also save each page with its boxes drawn")
    group.add_argument(
        "--batch-size",
        type=values.count,
        metavar="N",
        help=f"pages that the model reads together (default: {BATCH_SIZE})",
    )


def _add_answering(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-new-tokens",
        type=values.count,
        metavar="N",
        default=MAX_NEW_TOKENS,
        help="longest answer to a page (default: %(default)s)",
    )
    group.add_argument(
        "--ngram",
        type=values.number,
        metavar="N",
        help=f"no N tokens in a row occur twice within the window; 0 for no\nsuch rule (default: {OF_PICTURES[0]}, for "
        f"PDF files {OF_PDFS[0]})",
    )
    group.add_argument(
        "--ngram-window",
        type=values.count,
        metavar="W",
        help=f"last tokens of the answer that are looked at (default: {OF_PICTURES[1]},\nfor PDF files {OF_PDFS[1]})",
    )


def check_ocr(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """Refuses options that do not go together, and fills in defaults that depend on others.

    Raises:
        SystemExit: they do not.
    """
    if parsed.output is None:
        for option in ("--resume", "--boxes", "--batch-size"):
            if getattr(parsed, option[2:].replace("-", "_")):
                parser.error(f"found {option} without --output; name the folder of results with --output OUT")
    elif parsed.json:
        parser.error("found --json with --output, which writes JSON lines anyway; leave one of them out")
    if parsed.task == "locate" and parsed.prompt is None:
        parser.error("found --task locate without --prompt; say with --prompt what to look for")
    if parsed.task not in (None, "locate") and parsed.prompt is not None:
        parser.error(f"found --prompt with --task {parsed.task}; leave one of them out")
    if parsed.task is None and parsed.prompt is None:
        parsed.task = TASKS[0]
    parsed.batch_size = parsed.batch_size or BATCH_SIZE
    _check_ngram(parser, parsed.ngram, parsed.ngram_window)


def _check_ngram(parser: argparse.ArgumentParser, ngram: int | None, window: int | None) -> None:
    if ngram == 0 and window is not None:
        parser.error("found --ngram-window with --ngram 0, which looks at nothing; leave one of them out")
    for default_ngram, default_window in (OF_PICTURES, OF_PDFS):
        size = default_ngram if ngram is None else ngram
        looked_at = default_window if window is None else window
        if size > looked_at:
            parser.error(
                f"found {size} tokens in a row within a window of {looked_at}; give --ngram and a --ngram-window of at "
                "least that"
            )


def page_ranges(text: str) -> list[tuple[int, int]]:
    """A `type` for argparse: "3-7,12" as [(3, 7), (12, 12)]; "5-" goes to the end."""
    ranges = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:(-)\s*([0-9]{1,9})?)?\s*", part)
        first = int(found[1]) if found else 0
        last = first if found is None or found[2] is None else int(found[3] or sys.maxsize)
        if found is None or not 1 <= first <= last:
            raise argparse.ArgumentTypeError(f"found {text!r}; expected pages such as 3-7,12 or 5-, counted from 1")
        ranges.append((first, last))
    return ranges
