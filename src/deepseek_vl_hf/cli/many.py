"""`deepseek-vl describe --output`: thousands of pictures, in batches, into a file that a later run can go on with."""

import argparse
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from ..chat import SAMPLING, Chat
from ..chat.unasked import ask_each_surest, questions_for, written
from .answers import AnswerFile
from .models import load_chat
from .pictures import Found, fault_of, open_picture, short_name

# Beside those of sampling: what may change an answer, and is noted with it if it was given.
SETTINGS = ("system", "dtype", "int4", "fast")
# Bars appear where there is something to wait for.
SECONDS_WITHOUT_BAR = 1


def describe_many(found: Sequence[Found], arguments: argparse.Namespace) -> int:
    """Runs the command for a file of answers; returns the exit status: 1 if a picture could not be described.

    A picture is asked about once, however often it is named. Those that cannot be read are left out of the file and
    listed at the end, each with its reason.

    Raises:
        OSError, ValueError: the model cannot be read, or the file of answers cannot be written or gone on with.
    """
    answers = AnswerFile(Path(arguments.output), _asked(arguments), arguments.resume)
    faults = {each.name: each.fault for each in found if each.fault}
    named = [*dict.fromkeys(each.name for each in found)]
    left = [name for name in named if name not in faults and name not in answers]
    for name in tqdm(left, desc="looking at", unit="picture", delay=SECONDS_WITHOUT_BAR, leave=False, disable=None):
        if fault := fault_of(name):
            faults[name] = fault
    left = [name for name in left if name not in faults]
    before = len(named) - len(left) - len(faults)
    if left:
        _describe(load_chat(arguments), left, arguments, answers, faults, before)
    for fault in faults.values():
        print(f"error: {fault}", file=sys.stderr)
    _sum_up(len(named), before, len(faults), arguments.output)
    return int(bool(faults))


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every record says of its question: the model, the prompt, and the settings that were given."""
    given = {name: getattr(arguments, name, None) for name in (*SAMPLING, *SETTINGS)}
    settings = {name: value for name, value in given.items() if value is not None and value is not False}
    prompt = written(questions_for(arguments.model, arguments.prompt))
    return {"model": arguments.model, "prompt": prompt, "settings": settings}


def _describe(
    chat: Chat,
    names: Sequence[str],
    arguments: argparse.Namespace,
    answers: AnswerFile,
    faults: dict[str, str],
    before: int,
) -> None:
    """Asks about pictures, batch by batch, and notes those that fail in `faults`.

    Args:
        chat: what is asked.
        names: of the pictures without an answer.
        arguments: of the command.
        answers: where answers go.
        faults: why pictures have none.
        before: how many have theirs from an earlier run.
    """
    questions = questions_for(arguments.model, arguments.prompt)
    bar = tqdm(desc="describing", total=before + len(names), initial=before, unit="picture", disable=None)
    try:
        with bar, answers:
            for start in range(0, len(names), arguments.batch_size):
                batch = names[start : start + arguments.batch_size]
                opened = dict(_opened(batch, faults, arguments.debug))
                results = ask_each_surest(chat, questions, [*opened.values()])
                pairs = [*zip(opened, results, strict=True)]
                for name, result in pairs:
                    if result.failure:
                        _note(name, result.failure, faults, arguments.debug)
                answers.write(
                    {"picture": name, "answer": result.text, "new_tokens": result.new_tokens, "ended": result.ended}
                    for name, result in pairs
                    if not result.failure
                )
                bar.update(len(batch))
    except (Exception, KeyboardInterrupt):
        if answers.done:
            place = f"{len(answers.done)} pictures have their answers in {arguments.output}"
            print(f"{place}; the same command with --resume goes on.", file=sys.stderr)
        raise


def _opened(names: Sequence[str], faults: dict[str, str], debug: bool) -> Iterator[tuple[str, Image.Image]]:
    for name in names:
        try:
            yield name, open_picture(name)
        except (OSError, ValueError) as error:
            _note(name, error, faults, debug)


def _note(name: str, error: Exception, faults: dict[str, str], debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    label = f"{short_name(name)}: "
    faults[name] = str(error) if str(error).startswith(label) else f"{label}{error}"


def _sum_up(named: int, before: int, failed: int, output: str) -> None:
    """Says how many of the pictures named have answers, how many of them from a run before, and how many have none."""
    earlier = f", {before} of them from before" if before else ""
    print(f"{named - failed} of {named} pictures described in {output}{earlier}.", file=sys.stderr)
    if failed:
        print(f"error: {failed} not described; --resume tries them again.", file=sys.stderr)
