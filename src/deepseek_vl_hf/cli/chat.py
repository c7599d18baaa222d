"""`deepseek-vl chat`: a conversation in the terminal, or through a pipe."""

import argparse
import io
import sys

from ..chat.page_facts import abilities_of
from .conversation import ChatLoop
from .inline_pictures import picture_display
from .models import load_chat
from .pictures import open_picture
from .reading import lines_of_pipe, lines_of_terminal


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 if a line of a pipe led to an error.

    Raises:
        OSError, ValueError: the model or a picture cannot be read.
    """
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not at_terminal and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a line that is no text must not be the last one
    pictures = [open_picture(source) for source in arguments.image]  # before a model is loaded for them
    show = picture_display()
    chat = load_chat(arguments)
    read = lines_of_terminal() if at_terminal else lines_of_pipe(sys.stdin)
    loop = ChatLoop(chat, read, at_terminal, arguments.debug, show)
    for name, picture in zip(arguments.image, pictures, strict=True):
        loop.add_picture(name, picture)
    if at_terminal:
        print(f"{type(chat.model).__name__}, {arguments.model}. /help shows what can be typed; exit ends.")
        print(abilities_of(chat))
    return loop.run()
