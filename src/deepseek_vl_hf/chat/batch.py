"""One question about many pictures, a batch of them at a time.

picture --its prompt, as in a conversation of its own--> ids; a batch of them padded on the left
pictures --image processor--> pixel tensors of the batch --generate--> [batch, new tokens] --each cut at its end--> text
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from ..pictures.opening import open_images
from .history import Turn, fit, measure
from .sampling import Likelihood, end_of, ending_ids, options_of, with_penalty_of_answers
from .session import Chat
from .streaming import AnswerText


@dataclass(frozen=True)
class BatchAnswer:
    """What became of one picture of a batch.

    Attributes:
        text: the answer.
        new_tokens: its length.
        ended: "eos", "length" or "stopped".
        failure: why there is no answer; None where there is one.
        likelihood: the mean log-probability of its tokens, where that was measured.
    """

    text: str = ""
    new_tokens: int = 0
    ended: str = ""
    failure: Exception | None = None
    likelihood: float = -math.inf


@dataclass
class _Asked:
    """A picture with its prompt; `room` is how many tokens its answer may have."""

    picture: Image.Image
    ids: list[int]
    room: int


def ask_each(
    chat: Chat, text: str, pictures: Sequence[Any], *, measured: bool = False, **sampling: Any
) -> list[BatchAnswer]:
    """Asks the same about each of some pictures at once, as `Chat.ask` would in a new conversation for each.

    The chat's own conversation is neither read nor changed. Memory grows with the number of pictures.

    Args:
        chat: its model, processor, system prompt, tiling and sampling are used.
        text: the question, after the picture.
        pictures: see `Chat.stream`.
        measured: whether answers get their `likelihood`; for greedy ones, `do_sample=False`.
        **sampling: arguments of `generate`.

    Returns:
        An answer, or why there is none, for each picture; where one fails the others are answered all the same.

    Raises:
        ValueError: an argument of `generate` that is not for conversations, or whose value means nothing.
        torch.OutOfMemoryError: a GPU's memory does not even suffice for one picture.
    """
    options = options_of(chat.model, chat.processor, chat.sampling, sampling)
    results: list[Any] = [_asked(chat, text, picture, options) for picture in pictures]
    numbers = [number for number, asked in enumerate(results) if isinstance(asked, _Asked)]
    answers = _answers(chat, [results[number] for number in numbers], options, measured)
    for number, answer in zip(numbers, answers, strict=True):
        results[number] = answer
    return results


def _asked(chat: Chat, text: str, picture: Any, options: dict[str, Any]) -> _Asked | BatchAnswer:
    try:
        (opened,) = open_images([picture], transparency=chat.processor.image_processor.transparency)
        turn = Turn(["", text], [opened])
        measure(chat.processor, [], turn, chat.tiling)
        ids, _ = fit(chat.processor, chat.system, [turn], chat.context, 0)
    except (OSError, TypeError, ValueError) as error:
        return BatchAnswer(failure=error)
    return _Asked(opened, ids, min(options["max_new_tokens"], chat.context - len(ids)))


def _answers(chat: Chat, batch: Sequence[_Asked], options: dict[str, Any], measured: bool) -> Iterator[BatchAnswer]:
    """Answers in order; what fails as a whole, or does not fit in a GPU's memory, is tried in halves."""
    if not batch:
        return
    try:
        yield from _generate(chat, batch, options, measured)
        return
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    except (OSError, ValueError) as error:
        if len(batch) == 1:
            yield BatchAnswer(failure=error)
            return
    # Outside of `except`: what is caught there holds the tensors of the batch that failed.
    middle = len(batch) // 2
    yield from _answers(chat, batch[:middle], options, measured)
    yield from _answers(chat, batch[middle:], options, measured)


def _generate(chat: Chat, batch: Sequence[_Asked], options: dict[str, Any], measured: bool) -> list[BatchAnswer]:
    """Answers of a batch, of which the shorter prompts are padded on the left."""
    model, ends = chat.model, ending_ids(options, chat.model)
    lengths = torch.tensor([len(asked.ids) for asked in batch])
    longest = int(lengths.max())
    rows = [torch.tensor(asked.ids) for asked in batch]
    asked_for = {**options, "max_new_tokens": max(asked.room for asked in batch)}
    likelihood = Likelihood() if measured else None
    if likelihood is not None:
        asked_for["logits_processor"] = [*(options.get("logits_processor") or ()), likelihood]
    generated = model.generate(
        input_ids=pad_sequence(rows, batch_first=True, padding_value=ends[0], padding_side="left").to(model.device),
        attention_mask=(torch.arange(longest) >= longest - lengths[:, None]).long().to(model.device),
        pad_token_id=ends[0],
        use_cache=True,
        **_pixels(chat, [asked.picture for asked in batch]),
        **with_penalty_of_answers(asked_for, longest),
    )
    answers = []
    for number, (row, asked) in enumerate(zip(generated[:, longest:].tolist(), batch, strict=True)):
        answer = _answer(chat, _cut(row[: asked.room], ends), {**options, "max_new_tokens": asked.room})
        if likelihood is not None:
            answer = replace(answer, likelihood=likelihood.mean(number, answer.new_tokens))
        answers.append(answer)
    return answers


def _pixels(chat: Chat, pictures: list[Image.Image]) -> Any:
    """Pixel tensors of pictures, each of them a conversation's only one."""
    asked = {} if chat.tiling is None else {"tiling": chat.tiling}
    pixels = chat.processor.process_images(pictures, [1] * len(pictures), return_tensors="pt", **asked)
    return pixels.to(chat.model.device, dtype=chat.model.dtype)


def _cut(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """An answer's tokens up to the one that ends it; rows that are done early are filled up."""
    end = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:end]


def _answer(chat: Chat, tokens: list[int], options: dict[str, Any]) -> BatchAnswer:
    text = AnswerText(chat.processor)
    for token in tokens:
        text.add(token)
    return BatchAnswer(text.whole, len(tokens), end_of(tokens, options, chat.model))
