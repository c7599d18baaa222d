"""The conversation of `deepseek-vl chat`: lines that are questions, and lines that are commands."""

import re
import sys
import traceback
from collections.abc import Callable, Sequence

from PIL import Image
from prompt_toolkit import print_formatted_text
from prompt_toolkit.formatted_text import FormattedText

from ..chat import Chat
from ..conversation.chat_templates import IMAGE_PLACEHOLDER
from .inline_pictures import ShowPicture, show_nothing
from .markdown import MarkdownStyles, Styled
from .models import end_progress
from .pictures import open_picture, shown_name
from .reading import ReadLine
from .typed_names import dropped_names, name_in, names_in

HELP = """\
/image FILE    add a picture (file or URL) to your next message; several times for several.
               A file that is dropped on the window is added, too
/new           begin a new conversation
/undo          take the last question and its answer back
/save FILE     write the conversation to FILE.md, to be read, with its pictures beside it; or to FILE.zip
/load FILE     go on with the conversation in a FILE.zip
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
        debug: whether the traceback of an error is shown.
        show: shows a picture that is added.
    """

    def __init__(
        self,
        chat: Chat,
        read: ReadLine,
        at_terminal: bool,
        debug: bool = False,
        show: ShowPicture = show_nothing,
    ) -> None:
        self.chat, self.read, self.at_terminal, self.debug, self.show = chat, read, at_terminal, debug, show
        self._pictures: list[Image.Image] = []
        self._failed = False
        self._added = 0  # of the pictures: those that the input named, not the command line
        # The originals' words stand beside them.
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._add,
            "/new": self._new,
            "new": self._new,
            "/undo": self._undo,
            "/save": self._save,
            "/load": self._load,
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
            except BrokenPipeError:  # nobody reads the answers any more
                raise
            except (OSError, RuntimeError, TypeError, ValueError) as error:
                self._fail(error)
        if self._added and not self.at_terminal:
            self._fail(ValueError(f"The input ended without a message for the pictures ({self._added})."))
        return int(self._failed and not self.at_terminal)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        if self.debug:
            traceback.print_exception(error)
        print(f"error: {error}", file=sys.stderr, flush=True)

    def add_picture(self, name: str, picture: Image.Image) -> None:
        """Takes a picture for the next message."""
        self._pictures.append(picture)
        self.show(picture)
        place = f"picture {len(self._pictures)} of the next message"
        self._say(f"{place}: {shown_name(name)}, {picture.width} x {picture.height} pixels")

    def _add(self, source: str) -> None:
        if not source:
            raise ValueError("Which file? Write /image FILE.")
        self._add_all(names_in(source))

    def _add_all(self, names: Sequence[str]) -> None:
        pictures = [open_picture(name) for name in names]  # before one of them is added
        for name, picture in zip(names, pictures, strict=True):
            self.add_picture(name, picture)
            self._added += 1

    def _do(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        # A line of a pipe is a message, whoever wrote it; files are opened where a command says so.
        names, message = dropped_names(line) if self.at_terminal else ([], line)
        if word in self._commands and (word.startswith("/") or not rest):
            self._commands[word](rest.strip())
        elif names:
            self._add_all(names)
            if message:
                self._ask(message)
        elif re.fullmatch(r"/\w+", word):
            raise ValueError(f"There is no {word}. /help shows what can be typed.")
        elif line.strip() or self._pictures:
            self._ask(line)

    def _ask(self, line: str) -> None:
        """A message: pictures that were added stand in front, others where their placeholders stand."""
        first, *others = re.split("|".join(map(re.escape, {IMAGE_PLACEHOLDER, self.chat.processor.image_token})), line)
        # All names are read before the first is opened: after an error they would be taken for messages.
        asked = [open_picture(name) for name in self._names(len(others))]
        texts = [*[""] * len(self._pictures), first, *others]
        pictures, self._pictures, self._added = [*self._pictures, *asked], [], 0
        try:
            self._answer(texts, pictures)
        except (RuntimeError, ValueError):
            self._say(f"the message and its pictures ({len(pictures)}) are dropped")
            raise
        except KeyboardInterrupt:
            if not self.at_terminal:
                raise
            print(" (stopped)", flush=True)

    def _names(self, count: int) -> list[str]:
        """The files that are named for the places of a message."""
        names: list[str] = []
        try:
            while len(names) < count:
                line = self.read(f"picture {len(names) + 1} of {count}: ")
                found = names_in(line)
                names.append(found[0] if len(found) == 1 else line.strip())  # one place, one name
        except EOFError:
            raise ValueError(
                f"The input ended where picture {len(names) + 1} of {count} was asked for; the message is dropped."
            ) from None
        return names

    def _answer(self, texts: list[str], pictures: list[Image.Image]) -> None:
        styles = MarkdownStyles()
        try:
            for piece in self.chat.stream(texts, pictures):
                end_progress(self.chat)
                if self.at_terminal:
                    _print_styled(styles.add(piece))
                else:
                    print(piece, end="", flush=True)
        finally:
            end_progress(self.chat)
            _print_styled(styles.end())
        print(flush=True)
        figures = self.chat.figures
        if figures is None:
            return
        if figures.dropped_turns:
            self._say(f"the conversation was full: its oldest turns ({figures.dropped_turns}) were left out")
        speed = f", then {figures.tokens_per_second:.1f} tokens per second" if figures.new_tokens > 2 else ""
        self._say(
            f"{figures.new_tokens} tokens, the first after {figures.seconds_to_first_token:.2f} s{speed}; "
            f"{figures.kept_tokens} of {figures.prompt_tokens} prompt tokens were known"
        )

    def _new(self, rest: str) -> None:
        self.chat.new()
        self._pictures.clear()
        self._added = 0
        self._say("a new conversation")

    def _undo(self, rest: str) -> None:
        turn = self.chat.undo()
        self._say("there is nothing to take back" if turn is None else f"taken back: {turn.text.strip()}")

    def _save(self, rest: str) -> None:
        if not rest:
            raise ValueError("To which file? Write /save FILE.")
        self._say(f"saved to {self.chat.save(name_in(rest))}")

    def _load(self, rest: str) -> None:
        if not rest:
            raise ValueError("From which file? Write /load FILE.")
        self.chat.load(name_in(rest))
        self._say(f"loaded; turns: {len(self.chat.turns)}")

    def _say(self, text: str) -> None:
        """Tells a person at a terminal; a pipe gets answers alone."""
        if self.at_terminal:
            print(f"[{text}]", flush=True)


def _print_styled(texts: list[Styled]) -> None:
    """Prints without a line's end; control characters in the texts are shown, not obeyed."""
    if texts:
        print_formatted_text(FormattedText(texts), end="", flush=True)
