"""What is asked about pictures where nobody says what.

One question, of most models. Nano describes shapes and reads text, and each picture wants one of the two; it is asked
both, greedily, and the answer counts whose tokens it found likelier on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nano.folder import NANO, NANO_VL2, packaged
from .batch import BatchAnswer, ask_each
from .figures import Figures
from .sampling import Likelihood
from .session import Chat

QUESTION = "Describe the picture."
OF_PACKAGED = {
    NANO: (QUESTION, "Read all the text."),
    NANO_VL2: ("<|grounding|>Describe the picture.",),
}


@dataclass(frozen=True)
class Surest:
    """The answer that counts.

    Attributes:
        question: what it answers.
        answer: its text.
        figures: how it came about.
    """

    question: str
    answer: str
    figures: Figures | None


def questions_for(model: str | Path, asked: str | None) -> tuple[str, ...]:
    """What to ask a model: what somebody asks, else its own question, or its questions.

    Args:
        model: its name, as it is passed to a command, or its folder.
        asked: None where nobody says what.
    """
    if asked is not None:
        return (asked,)
    name = packaged(model)
    return OF_PACKAGED[name] if name else (QUESTION,)


def written(questions: Sequence[str]) -> str:
    """What was asked, as one line of a record."""
    return " | ".join(questions)


def ask_surest(chat: Chat, questions: Sequence[str], pictures: Sequence[Any]) -> Surest:
    """Asks each question in a conversation of its own; several of them greedily, so that answers can be compared.

    The chat is left with the last question's conversation.

    Raises:
        OSError, TypeError, ValueError: see `Chat.ask`.
    """
    if len(questions) == 1:
        chat.new()
        answer = chat.ask(questions[0], pictures)
        return Surest(questions[0], answer, chat.figures)
    found = []
    for question in questions:
        chat.new()
        likelihood = Likelihood()
        answer = chat.ask(question, pictures, do_sample=False, logits_processor=[likelihood])
        tokens = chat.figures.new_tokens if chat.figures else 0
        found.append((likelihood.mean(0, tokens), Surest(question, answer, chat.figures)))
    return max(found, key=lambda pair: pair[0])[1]


def ask_each_surest(chat: Chat, questions: Sequence[str], pictures: Sequence[Any]) -> list[BatchAnswer]:
    """`ask_each` with several questions, of which each picture's surest answer counts; with one, no more than that.

    Raises:
        ValueError, torch.OutOfMemoryError: see `ask_each`.
    """
    if len(questions) == 1:
        return ask_each(chat, questions[0], pictures)
    answers = [ask_each(chat, question, pictures, measured=True, do_sample=False) for question in questions]
    return [max(those, key=lambda answer: answer.likelihood) for those in zip(*answers, strict=True)]
