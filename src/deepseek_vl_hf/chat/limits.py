"""What one visitor of the page may ask for, so that the page stays open for the others."""

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

# Of one message.
MOST_CHARACTERS = 8000
MOST_PICTURES = 8
# Of a conversation. Pictures are kept as they were sent, three bytes for each pixel.
MOST_PICTURES_KEPT = 24
MOST_PIXELS_KEPT = 100_000_000
# Of a visitor at a time: one that is answered, and one that waits.
MOST_QUESTIONS = 2


def uploads_of(files: Sequence[Any], folder: Path) -> list[Path]:
    """The files of a message, which have to be uploads: whoever names another file or a link is refused.

    Args:
        files: as Gradio gives them.
        folder: where it puts uploads.

    Raises:
        ValueError: one lies elsewhere.
    """
    paths = [Path(str(file)) for file in files]
    for path in paths:
        if not path.is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError("Found a picture that was not uploaded. Send pictures as files, with the button.")
    return paths


def check_message(text: str, pictures: Sequence[Path], kept: Sequence[Image.Image]) -> None:
    """Raises ValueError where a message is more than one visitor's share; no picture is decoded for that.

    Args:
        text: of the message.
        pictures: its uploads.
        kept: those of the conversation so far.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"The text has {len(text)} characters; at most {MOST_CHARACTERS} fit in a message here.")
    if len(pictures) > MOST_PICTURES:
        raise ValueError(f"The message has {len(pictures)} pictures; at most {MOST_PICTURES} fit in a message here.")
    if len(kept) + len(pictures) > MOST_PICTURES_KEPT:
        raise ValueError(
            f"The conversation would have {len(kept) + len(pictures)} pictures; at most {MOST_PICTURES_KEPT} are kept "
            "here. Begin a new conversation."
        )
    pixels = sum(picture.width * picture.height for picture in kept) + sum(map(_pixels, pictures))
    if pixels > MOST_PIXELS_KEPT:
        raise ValueError(
            f"The conversation's pictures would have {pixels / 1e6:.0f} million pixels; at most "
            f"{MOST_PIXELS_KEPT / 1e6:.0f} million are kept here. Send smaller pictures, or begin a new conversation."
        )


def _pixels(path: Path) -> int:
    """Pixels that a file says it has; none where it is no picture, which is told when it is opened."""
    try:
        with Image.open(path) as picture:
            return picture.width * picture.height
    except Exception:  # Pillow's readers raise what they like
        return 0


class Shares:
    """How many questions each visitor has under way, and which of those that wait are still to be answered."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._withdrawn: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, visitor: str) -> bool:
        """Whether the visitor may ask now; if so, the question counts until it is given back."""
        with self._lock:
            if self._asked[visitor] >= MOST_QUESTIONS:
                return False
            self._asked[visitor] += 1
            self._waiting[visitor] += 1
            return True

    def begin(self, visitor: str) -> bool:
        """The visitor's oldest question has its turn: whether it is still to be answered."""
        with self._lock:
            self._waiting[visitor] = max(self._waiting[visitor] - 1, 0)
            if self._withdrawn[visitor] == 0:
                return True
            self._withdrawn[visitor] -= 1
            return False

    def withdraw(self, visitor: str) -> None:
        """What waits now belongs to a conversation that is over."""
        with self._lock:
            self._withdrawn[visitor] = self._waiting[visitor]

    def settle(self, visitor: str) -> None:
        """All that waited had its turn; what never came to it (a caller may cancel) takes no later question along."""
        with self._lock:
            del self._withdrawn[visitor]

    def under_way(self, visitor: str) -> bool:
        """Whether a question of the visitor's waits or is being answered."""
        with self._lock:
            return self._asked[visitor] > 0

    def give_back(self, visitor: str) -> None:
        """A question was answered, refused or withdrawn."""
        with self._lock:
            self._asked[visitor] -= 1
            if self._asked[visitor] <= 0:
                self._drop(visitor)

    def forget(self, visitor: str) -> None:
        """The visitor left; questions that still waited are not going to be asked."""
        with self._lock:
            self._drop(visitor)

    def _drop(self, visitor: str) -> None:
        for counts in (self._asked, self._waiting, self._withdrawn):
            del counts[visitor]
