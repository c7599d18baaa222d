"""`deepseek-vl describe`: one question about pictures, and out. `many.py` has what writes the answers into a file."""

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from PIL import Image

from ..chat import Chat
from ..chat.page_facts import abilities_of
from ..chat.unasked import ask_surest, questions_for, written
from .many import describe_many
from .models import end_progress, load_chat
from .pictures import Found, fault_of, find_pictures, open_picture, short_name


@dataclass
class Question:
    """What is asked at once.

    Attributes:
        pictures: their names.
        error: why there is no answer; "" where there is one.
    """

    pictures: list[str]
    error: str = ""


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 if a picture could not be described.

    A picture that cannot be read is told where its answer would stand, and the others are described.

    Raises:
        OSError, ValueError: the model cannot be read, or the file of answers cannot be written or gone on with.
    """
    found = find_pictures(arguments.pictures, arguments.recursive)
    if arguments.output is not None:
        return describe_many(found, arguments)
    asked = questions_for(arguments.model, arguments.prompt)
    questions = [_question(group) for group in ([found] if arguments.together else [[each] for each in found])]
    # Without a picture that might be described there is nothing to load a model for.
    chat = load_chat(arguments) if any(not question.error for question in questions) else None
    if chat is not None and len(asked) > 1 and sys.stdout.isatty() and not arguments.json:
        print(f"[{abilities_of(chat)} Ask it with -p.]", file=sys.stderr)
    for question in questions:
        if chat is not None and not question.error:
            _answer(chat, question, asked, arguments, several=len(questions) > 1)
        if question.error:
            _tell(question, asked, arguments)
    failed = [short_name(name) for question in questions if question.error for name in question.pictures]
    if failed and len(questions) > 1:
        print(f"error: not described ({len(failed)} of {len(questions)}): {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _question(group: Sequence[Found]) -> Question:
    """With what is wrong with its first picture that cannot be read, as far as that is told without decoding it."""
    names = [each.name for each in group]
    return Question(names, next((each.fault for each in group if each.fault), "") or fault_of(*names))


def _answer(chat: Chat, question: Question, asked: Sequence[str], arguments: argparse.Namespace, several: bool) -> None:
    """Asks and prints; notes an error that may be this picture's alone."""
    label = f"{question.pictures[0]}: " if several else ""
    try:
        pictures = [open_picture(name) for name in question.pictures]
        if len(asked) == 1 and not arguments.json:
            chat.new()
            _print_answer(chat, asked[0], pictures, label)
            return
        found = ask_surest(chat, asked, pictures)
        end_progress(chat)
        if arguments.json:
            figures = asdict(found.figures) if found.figures else {}
            _print_json({"pictures": question.pictures, "prompt": found.question, "answer": found.answer, **figures})
        else:
            print(f"{label}{found.answer}", flush=True)
    except BrokenPipeError:  # nobody reads the answers any more
        raise
    except (OSError, ValueError) as error:
        if arguments.debug:
            traceback.print_exc()
        name = f"{short_name(question.pictures[0])}: " if several else ""
        question.error = str(error) if str(error).startswith(name) else f"{name}{error}"
    finally:
        end_progress(chat)


def _print_answer(chat: Chat, prompt: str, pictures: list[Image.Image], label: str) -> None:
    """Prints an answer as it is made, after a label; nothing if there is an error before it."""
    pieces = chat.stream(prompt, pictures)
    first = next(pieces, "")
    end_progress(chat)
    print(f"{label}{first}", end="", flush=True)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def _tell(question: Question, asked: Sequence[str], arguments: argparse.Namespace) -> None:
    if arguments.json:
        _print_json({"pictures": question.pictures, "prompt": written(asked), "error": question.error})
    print(f"error: {question.error}", file=sys.stderr, flush=True)


def _print_json(content: dict[str, object]) -> None:
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    print(json.dumps(content, ensure_ascii=plain), flush=True)
