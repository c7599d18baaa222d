"""The turns of a conversation, and which of them fit into a model's context."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from .memory import EncodedImage

# Dropping turns makes everything behind them to be read again, so it is done for some turns ahead.
FULL_UP_TO = 0.75


@dataclass
class Turn:
    """A question and its answer.

    Attributes:
        texts: what was typed: before, between and after the pictures, so one more than there are.
        pictures: those that came with it, RGB.
        images: the same as the language model reads them.
        count: how many pictures the conversation had with them.
        answer: None while there is none.
    """

    texts: list[str]
    pictures: list[Image.Image] = field(default_factory=list)
    images: list[EncodedImage] = field(default_factory=list)
    count: int = 0
    answer: str | None = None

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


def prompt_of(processor: Any, system: str | None, turns: Sequence[Turn]) -> EncodedConversation:
    """The prompt of a conversation whose last turn has no answer yet."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [message for turn in turns for message in turn.messages()]
    images = [image for turn in turns for image in turn.images]
    return EncodedConversation(processor.encode_conversation(messages, [len(image) for image in images]), images)


def fit(
    processor: Any, system: str | None, turns: list[Turn], limit: int, room: int
) -> tuple[EncodedConversation, int]:
    """The prompt of as many of the last turns as fit, and how many of the first ones are left out.

    Args:
        processor: the model's.
        system: the system prompt; None for the chat template's own.
        turns: the last one has no answer yet.
        limit: the model's longest context, in tokens.
        room: tokens to leave free for the answer.

    Raises:
        ValueError: the last turn does not fit by itself.
    """
    prompt = prompt_of(processor, system, turns)
    if len(prompt.ids) + room <= limit:
        return prompt, 0
    shorter = [(prompt_of(processor, system, turns[dropped:]), dropped) for dropped in range(1, len(turns))]
    for share in (FULL_UP_TO, 1.0):
        for prompt, dropped in shorter:
            if len(prompt.ids) + room <= limit * share:
                return prompt, dropped
    prompt, dropped = shorter[-1] if shorter else (prompt, 0)
    if len(prompt.ids) >= limit:
        raise ValueError(
            f"The message takes {len(prompt.ids)} tokens, {sum(map(len, turns[-1].images))} of them for its pictures; "
            f"the model was trained for {limit}. Send less text or fewer pictures."
        )
    return prompt, dropped
