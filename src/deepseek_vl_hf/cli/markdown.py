"""Answers in Markdown as a terminal shows them while they come.

Nothing that was shown is drawn anew, so an answer may be longer than the window and is copied as it stands. Headings,
bold words, code and list marks are styled; whatever else Markdown knows, such as tables, stays as the model writes it.
"""

import re
from collections.abc import Iterator

BOLD, CODE = "bold", "ansicyan"
FENCE = re.compile(r" {0,3}```[^\n]*\n")
HEADING = re.compile(r"#{1,6} +(?=\S)")
BULLET = re.compile(r"( *)[-*+] +(?=\S)")
# What stands at the beginning of a line and may still become one of these.
UNDECIDED = re.compile(r" *(?:#{1,6} *|[-*+] *|`{1,2}|```[^\n]*)?")
MARK = re.compile(r"\*\*|`|\n")
SPANS = {"**": (re.compile(r"\*\*(?=[^\s*])([^\n]*?\S)\*\*"), BOLD), "`": (re.compile(r"`([^`\n]+)`"), CODE)}

# A style of prompt_toolkit, and a text.
Styled = tuple[str, str]


class MarkdownStyles:
    """Turns an answer, piece by piece, into texts with styles. What may still become a mark is held back."""

    def __init__(self) -> None:
        self._held = ""
        self._line_begins, self._in_heading, self._in_code = True, False, False
        self._last = ""

    def add(self, piece: str) -> list[Styled]:
        """What can be shown now that a piece has come."""
        self._held += piece
        return list(self._decided())

    def end(self) -> list[Styled]:
        """What was held back, as it stands."""
        held, self._held = self._held, ""
        return [(self._style(), held)] if held else []

    def _style(self) -> str:
        return CODE if self._in_code else BOLD if self._in_heading else ""

    def _decided(self) -> Iterator[Styled]:
        while self._held:
            if self._line_begins:
                if UNDECIDED.fullmatch(self._held):
                    return
                yield from self._beginning()
                continue
            mark = None if self._in_code else MARK.search(self._held)
            end = mark.start() if mark else self._end_of_plain()
            if end:
                yield self._style(), self._take(end)
            elif mark is None:
                return
            elif mark[0] == "\n":
                yield "", self._take(1)
                self._line_begins, self._in_heading = True, False
            elif (span := self._span(mark[0])) is None:
                return
            else:
                yield span

    def _end_of_plain(self) -> int:
        """Up to where there is no mark: in code to the line's end, else but for a star that may be half of one."""
        if self._in_code:
            end = self._held.find("\n") + 1
            self._line_begins = bool(end)
            return end or len(self._held)
        return len(self._held) - self._held.endswith("*")

    def _beginning(self) -> Iterator[Styled]:
        """Takes what a line begins with."""
        if match := FENCE.match(self._held):
            self._take(match.end())
            self._in_code = not self._in_code
            return
        self._line_begins = False
        if self._in_code:
            return
        if match := HEADING.match(self._held):
            self._take(match.end())
            self._in_heading = True
        elif match := BULLET.match(self._held):
            self._take(match.end())
            yield "", f"{match[1]}• "

    def _span(self, mark: str) -> Styled | None:
        """A text between two marks, or the mark alone where no other follows in its line; None while that is open."""
        pattern, style = SPANS[mark]
        # Stars between letters are a power; Chinese puts no blanks around what is bold.
        inside_a_word = mark == "**" and self._last.isascii() and self._last.isalnum()
        if not inside_a_word and (match := pattern.match(self._held)):
            self._take(match.end())
            return style, match[1]
        if inside_a_word or "\n" in self._held:
            return self._style(), self._take(len(mark))
        return None

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        self._last = taken[-1:]
        return taken
