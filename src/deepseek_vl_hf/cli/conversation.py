"""The conversation of `deepseek-vl chat`: lines that are questions, and lines that are commands."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from ..chat import Chat
from ..chat.export import save_markdown
from ..conversation.chat_templates import IMAGE_PLACEHOLDER
from ..pictures.opening import open_images
from .models import end_progress
from .reading import ReadLine

HELP = """\
/image FILE    add a picture (file or URL) to your next message; several times for several
/new           begin a new conversation
/undo          take the last question and its answer back
/save FILE     write the conversation to a Markdown file, with its pictures beside it
/help          show this
exit           end (Ctrl-D does, too)

Anything else is a message. Where <image_placeholder> stands in it you are asked for a picture.
Alt-Enter, or \\ at the end of a line, begins a new line. Ctrl-C stops an answer."""
YOU = "you> "


class ChatLoop:
    """Reads lines until there are none.

    Args:
        chat: the conversation.
        read: where lines come from.
        at_terminal: whether a person sits there, who gets prompts and figures.
    """

    def __init__(self, chat: Chat, read: ReadLine, at_terminal: bool) -> None:
        self.chat, self.read, self.at_terminal = chat, read, at_terminal
        self._pictures: list[Image.Image] = []
        self._failed = False
        # The originals' words stand beside them.
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": lambda rest: self.add_pictures([rest]),
            "/new": self._new,
            "new": self._new,
            "/undo": self._undo,
            "/save": self._save,
            "/help": lambda rest: print(HELP, flush=True),
            "help": lambda rest: print(HELP, flush=True),
        }

    def run(self) -> int:
        """The conversation; returns the exit status: 1 if something in a pipe failed."""
        while True:
            try:
                line = self.read(YOU)
                if line.strip() in ("exit", "/exit", "quit", "/quit"):
                    break
                self._do(line)
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self.at_terminal:
                    raise
                print(flush=True)
            except (OSError, RuntimeError, TypeError, ValueError) as error:
                self._failed = True
                print(f"error: {error}", file=sys.stderr, flush=True)
        return int(self._failed and not self.at_terminal)

    def add_pictures(self, sources: Sequence[str]) -> None:
        """Reads pictures for the next message.

        Raises:
            ValueError: one cannot be read.
        """
        for source in sources:
            if not source:
                raise ValueError("Which file? Write /image FILE.")
            picture = self._open(source)
            self._pictures.append(picture)
            self._say(f"picture {len(self._pictures)} of the next message: {picture.width} x {picture.height} pixels")

    def _open(self, source: str) -> Image.Image:
        (picture,) = open_images([source], transparency=self.chat.processor.image_processor.transparency)
        return picture

    def _do(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if word in self._commands and (word.startswith("/") or not rest):
            self._commands[word](rest.strip())
        elif re.fullmatch(r"/\w+", word):
            raise ValueError(f"There is no {word}. /help shows what can be typed.")
        elif line.strip() or self._pictures:
            self._ask(line)

    def _ask(self, line: str) -> None:
        """A message: pictures that were added stand in front, others where their placeholders stand."""
        first, *others = re.split("|".join(map(re.escape, {IMAGE_PLACEHOLDER, self.chat.processor.image_token})), line)
        asked = [
            self._open(self.read(f"picture {number} of {len(others)}: ").strip())
            for number in range(1, len(others) + 1)
        ]
        texts = [*[""] * len(self._pictures), first, *others]
        pictures, self._pictures = [*self._pictures, *asked], []
        try:
            self._answer(texts, pictures)
        except (RuntimeError, ValueError):
            self._say(f"the message and its pictures ({len(pictures)}) are dropped")
            raise
        except KeyboardInterrupt:
            if not self.at_terminal:
                raise
            print(" (stopped)", flush=True)

    def _answer(self, texts: list[str], pictures: list[Image.Image]) -> None:
        try:
            for piece in self.chat.stream(texts, pictures):
                end_progress(self.chat)
                print(piece, end="", flush=True)
            print(flush=True)
        finally:
            end_progress(self.chat)
        figures = self.chat.figures
        if figures is None:
            return
        if figures.dropped_turns:
            self._say(f"the conversation was full: its oldest turns ({figures.dropped_turns}) were left out")
        speed = f", then {figures.tokens_per_second:.1f} tokens per second" if figures.new_tokens > 1 else ""
        self._say(
            f"{figures.new_tokens} tokens, the first after {figures.seconds_to_first_token:.2f} s{speed}; "
            f"{figures.kept_tokens} of {figures.prompt_tokens} prompt tokens were known"
        )

    def _new(self, rest: str) -> None:
        self.chat.new()
        self._pictures.clear()
        self._say("a new conversation")

    def _undo(self, rest: str) -> None:
        turn = self.chat.undo()
        self._say("there is nothing to take back" if turn is None else f"taken back: {turn.text.strip()}")

    def _save(self, rest: str) -> None:
        if not rest:
            raise ValueError("To which file? Write /save FILE.")
        if not self.chat.turns:
            raise ValueError("There is nothing to save yet.")
        self._say(f"saved to {save_markdown(self.chat.turns, Path(rest).expanduser())}")

    def _say(self, text: str) -> None:
        """Tells a person at a terminal; a pipe gets answers alone."""
        if self.at_terminal:
            print(f"[{text}]", flush=True)
