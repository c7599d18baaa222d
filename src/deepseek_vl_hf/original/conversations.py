"""Prompts as text, turn by turn, as the originals' `Conversation` builds them."""

from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import zip_longest
from typing import Any


class SeparatorStyle(Enum):
    """How turns are joined; the published models know one way."""

    DeepSeek = "DeepSeek"


@dataclass
class Conversation:
    """Turns of a conversation.

    Attributes:
        name: of the template.
        roles: how user and assistant are called.
        sep: after the system message, and after every turn at an even place, counted from zero.
        sep2: after the turns at odd places, which are the assistant's.
        system_message: in front of all; "" for none.
        messages: [role, text] of each turn, or [role, (text, pictures)]; a text that is empty or None is an answer that
            is to come.
        offset: how many turns at the beginning are examples, which a page does not show.
        sep_style: how turns are joined.
        system_template: how the system message is written.
        stop_str: texts that end an answer.
    """

    name: str = "deepseek"
    roles: tuple[str, str] = ("User", "Assistant")
    sep: str = "\n\n"
    sep2: str = "<｜end▁of▁sentence｜>"
    system_message: str = ""
    messages: list[list[Any]] = field(default_factory=list)
    offset: int = 0
    sep_style: SeparatorStyle = SeparatorStyle.DeepSeek
    system_template: str = "{system_message}"
    stop_str: list[str] = field(default_factory=lambda: ["User:", "<｜end▁of▁sentence｜>"])

    def get_prompt(self) -> str:
        """The prompt's text."""
        system = self.system_template.format(system_message=self.system_message)
        pieces = [system + self.sep] if system else []
        for number, (role, content) in enumerate(self.messages):
            text = content[0] if isinstance(content, tuple) else content  # beside pictures
            separator = self.sep2 if number % 2 else self.sep
            pieces.append(f"{role}: {text}{separator}" if text else f"{role}:")
        return "".join(pieces)

    def set_system_message(self, system_message: str) -> None:
        """Replaces the system message."""
        self.system_message = system_message

    def append_message(self, role: str, message: Any) -> None:
        """Adds a turn."""
        self.messages.append([role, message])

    def update_last_message(self, message: str) -> None:
        """Fills in the answer that was to come."""
        self.messages[-1][1] = message

    def reset_message(self) -> None:
        """Removes all turns."""
        self.messages = []

    def to_gradio_chatbot(self) -> list[list[Any]]:
        """[question, answer] of each pair of turns after the examples; None for an answer that is to come."""
        texts = [text for _, text in self.messages[self.offset :]]
        return [list(pair) for pair in zip_longest(texts[::2], texts[1::2])]

    def copy(self) -> "Conversation":
        """One that can be changed without this one."""
        return replace(self, messages=[list(turn) for turn in self.messages])


def get_conv_template(name: str) -> Conversation:
    """An empty conversation of DeepSeek-VL.

    Raises:
        ValueError: an unknown name.
    """
    if name != "deepseek":
        raise ValueError(f"There is no template {name!r}; the published models use 'deepseek'.")
    return Conversation()


def get_vl2_conv_template(name: str) -> Conversation:
    """An empty conversation of DeepSeek-VL2, which calls its template by the same name.

    Raises:
        ValueError: an unknown name.
    """
    conversation = get_conv_template(name)
    conversation.roles = ("<|User|>", "<|Assistant|>")
    return conversation


def formatted(conversation: Conversation, messages: list[dict[str, str]], system_prompt: str) -> str:
    """The text of messages with `role` and `content`, white space around contents and the whole removed."""
    conversation.set_system_message(system_prompt)
    for message in messages:
        conversation.append_message(message["role"], message["content"].strip())
    return conversation.get_prompt().strip()
