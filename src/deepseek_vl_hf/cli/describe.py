"""`deepseek-vl describe`: one question about pictures, and out."""

import argparse
import json
from dataclasses import asdict

from .models import end_progress, load_chat


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        OSError, ValueError: the model or a picture cannot be read.
    """
    chat = load_chat(arguments)
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
