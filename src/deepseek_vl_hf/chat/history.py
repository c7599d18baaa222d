"""The turns of a conversation, and which of them fit into a model's context."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from .memory import EncodedImage

# Dropping turns has everything after them read again, so it is done for some turns ahead.
FULL_UP_TO = 0.75


class MessageTooLongError(ValueError):
    """A single message is longer than the model's context."""


@dataclass(repr=False)
class Turn:
    """A question and its answer.

    Attributes:
        texts: what was typed: before, between and after the pictures, so one more than there are.
        pictures: those that came with it, RGB.
        lengths: places that each takes in a prompt, known from their sizes.
        images: the same as the language model reads them.
        count: how many pictures the conversation had with them.
        answer: None while there is none.
    """

    texts: list[str]
    pictures: list[Image.Image] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    images: list[EncodedImage] = field(default_factory=list)
    count: int = 0
    answer: str | None = None

    def __repr__(self) -> str:
        """Texts and sizes of pictures; their tensors would fill the screen."""
        found = [repr(self.texts[0] if len(self.texts) == 1 else self.texts)]
        if self.pictures:
            found.append(f"pictures: {', '.join(f'{each.width} x {each.height}' for each in self.pictures)}")
        return f"Turn({', '.join(found)}, answer={self.answer!r})"

    @property
    def text(self) -> str:
        """All that was typed, without the pictures' places."""
        return "".join(self.texts)

    def messages(self) -> list[dict[str, Any]]:
        """For the chat template."""
        content: list[dict[str, Any]] = [{"type": "text", "text": self.texts[0]}]
        for text in self.texts[1:]:
            content += [{"type": "image"}, {"type": "text", "text": text}]
        question = {"role": "user", "content": [part for part in content if part.get("text") != ""] or ""}
        return [question] if self.answer is None else [question, {"role": "assistant", "content": self.answer}]


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation as the model reads it.

    Attributes:
        ids: tokens, up to the head of the answer.
        images: in the order of their places.
    """

    ids: list[int]
    images: list[EncodedImage]


def measure(processor: Any, turns: Sequence[Turn], turn: Turn, tiling: str | bool | None) -> None:
    """Notes of a new turn how many places its pictures take, which needs their sizes alone, and the count that decides.

    Args:
        processor: the model's.
        turns: those before it, whose pictures stay as they were.
        turn: the new one.
        tiling: see `Chat`.
    """
    turn.count = sum(len(each.pictures) for each in (*turns, turn))
    turn.lengths = lengths_of(processor, turn.pictures, turn.count, tiling)


def lengths_of(processor: Any, pictures: Sequence[Image.Image], count: int, tiling: str | bool | None) -> list[int]:
    """Places that each picture of a message takes in a prompt.

    Args:
        processor: the model's.
        pictures: the message's.
        count: how many the conversation has with them, which decides whether they are cut into tiles.
        tiling: see `Chat`.
    """
    if not pictures:
        return []
    sizes = [(picture.height, picture.width) for picture in pictures]
    # Of those before them the number alone matters.
    sizes = [sizes[0]] * (count - len(sizes)) + sizes
    asked = {} if tiling is None else {"tiling": tiling}
    tokens, _ = processor.num_tokens_of_sizes(sizes, **asked)
    return list(tokens[count - len(pictures) :])


def ids_of(processor: Any, system: str | None, turns: Sequence[Turn]) -> list[int]:
    """The tokens of a conversation whose last turn has no answer yet."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [message for turn in turns for message in turn.messages()]
    ids: list[int] = processor.encode_conversation(messages, [length for turn in turns for length in turn.lengths])
    return ids


def fit(processor: Any, system: str | None, turns: list[Turn], limit: int, room: int) -> tuple[list[int], int]:
    """The prompt's tokens of as many of the last turns as fit, and how many of the first ones are left out.

    Args:
        processor: the model's.
        system: the system prompt; None for the chat template's own.
        turns: the last one has no answer yet, and its pictures may not be encoded yet.
        limit: the model's longest context, in tokens.
        room: tokens to leave free for the answer.

    Raises:
        MessageTooLongError: the last turn does not fit by itself.
    """
    ids = ids_of(processor, system, turns)
    if len(ids) + room <= limit:
        return ids, 0
    shorter = [(ids_of(processor, system, turns[dropped:]), dropped) for dropped in range(1, len(turns))]
    for share in (FULL_UP_TO, 1.0):
        for ids, dropped in shorter:
            if len(ids) + room <= limit * share:
                return ids, dropped
    ids, dropped = shorter[-1] if shorter else (ids, 0)
    if len(ids) >= limit:
        takes = f"{len(ids)} tokens, {sum(turns[-1].lengths)} of them for its pictures"
        raise MessageTooLongError(too_long(takes, limit))
    return ids, dropped


def too_long(tokens: str, limit: int) -> str:
    """What is said of a message that does not fit, given what it takes and the model's longest context."""
    return (
        f"The message takes {tokens}; {limit - 1} fit, because the model was trained for {limit} with the answer. "
        "Send less text or fewer pictures."
    )
