"""`deepseek-vl describe`: one question about pictures, and out."""

import argparse
import json
from dataclasses import asdict

from ..nano.folder import NANO
from .models import add_model_arguments, end_progress, load_chat

SUMMARY = "ask one question about pictures"
DESCRIPTION = """Asks a question about each picture by itself, and prints the answers.

The default model, nano, knows drawn scenes alone: shapes, strings, bar charts."""
QUESTION = "Describe the picture."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes the command line."""
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", help="file or URL")
    parser.add_argument("-p", "--prompt", default=QUESTION, help="the question (default: %(default)s)")
    parser.add_argument("--model", default=NANO, help="folder or Hub repository (default: %(default)s)")
    parser.add_argument("--together", action="store_true", help="ask once, about all pictures")
    parser.add_argument("--json", action="store_true", help="print an object with figures on a line for each answer")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        OSError, ValueError: the model or a picture cannot be read.
    """
    chat = load_chat(arguments, arguments.model)
    groups = [arguments.pictures] if arguments.together else [[picture] for picture in arguments.pictures]
    for group in groups:
        chat.new()
        if arguments.json:
            answer = chat.ask(arguments.prompt, group)
            end_progress(chat)
            figures = asdict(chat.figures) if chat.figures else {}
            content = {"pictures": group, "prompt": arguments.prompt, "answer": answer, **figures}
            print(json.dumps(content, ensure_ascii=False), flush=True)
            continue
        if len(groups) > 1:
            print(f"{group[0]}: ", end="", flush=True)
        for piece in chat.stream(arguments.prompt, group):
            end_progress(chat)
            print(piece, end="", flush=True)
        print(flush=True)
    return 0
