"""An answer without what engines leave in: texts at which it ends, and the blank between a template and a word."""

from collections.abc import Sequence


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """A text up to the first of those that end it, and whether there was one."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


class StreamCutter:
    """The same for an answer that comes in pieces: what may be the beginning of such a text waits for the next piece.

    Blanks in front of the answer's first word are dropped.

    Args:
        stops: the texts; none lets everything through at once.

    Attributes:
        found: whether one of them came; nothing is let through after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._begun = False
        self.found = False

    def feed(self, piece: str) -> str:
        """What of the answer is certain with a further piece."""
        if self.found:
            return ""
        text, self.found = cut(self._held + piece, self._stops)
        kept = 0 if self.found else self._beginning_at_end(text)
        self._held = text[len(text) - kept :]
        return self._without_blanks_in_front(text[: len(text) - kept])

    def end(self) -> str:
        """What was held back when the answer is over."""
        held, self._held = ("" if self.found else self._held), ""
        return self._without_blanks_in_front(held)

    def _without_blanks_in_front(self, text: str) -> str:
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        return text

    def _beginning_at_end(self, text: str) -> int:
        """Characters at the end of a text with which one of the stops begins."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
