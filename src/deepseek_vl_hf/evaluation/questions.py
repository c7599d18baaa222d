"""From what a task of lmms-eval asks to what processor and `generate` read; nothing here needs lmms-eval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Tasks that name no length get this one; most name their own, of 8 to 1024 tokens.
MAX_NEW_TOKENS = 1024
OF_DRAWING = ("temperature", "top_p", "top_k")
OBEYED = (
    *("max_new_tokens", "min_new_tokens", "do_sample", *OF_DRAWING, "num_beams", "length_penalty"),
    *("repetition_penalty", "no_repeat_ngram_size", "until"),
)
# lmms-eval writes this into every task that says nothing of where an answer ends. It separates examples in a prompt
# for models that continue text; a chat model's answer ends by itself, and may have paragraphs.
WRITTEN_BY_DEFAULT = ["\n\n"]


@dataclass(frozen=True)
class Settings:
    """How a task wants its answers.

    Attributes:
        generate: arguments of `generate`.
        stops: texts that end an answer and are no part of it.
        ignored: names of what the task asks for besides, which nothing here reads.
    """

    generate: dict[str, Any]
    stops: tuple[str, ...]
    ignored: tuple[str, ...]


def settings_of(asked: Mapping[str, Any]) -> Settings:
    """Reads a task's `generation_kwargs`. Answers are greedy unless they ask for a temperature above 0.

    Args:
        asked: by name; None counts as not given. `do_sample` goes before the temperature where it is False.

    Raises:
        TypeError: `until` is neither a text nor a list of texts.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    known = {name: value for name, value in given.items() if name in OBEYED}
    stops = _stops(known.pop("until", []))
    temperature = known.get("temperature", 1.0 if known.get("do_sample") else 0)
    draws = bool(known.get("do_sample", True)) and temperature > 0
    if not draws:
        known = {name: value for name, value in known.items() if name not in OF_DRAWING}
    generate = {"max_new_tokens": MAX_NEW_TOKENS, **known, "do_sample": draws}
    return Settings(generate, stops, tuple(sorted(given.keys() - set(OBEYED))))


def _stops(until: Any) -> tuple[str, ...]:
    texts = [until] if isinstance(until, str) else until
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"until is {until!r}; expected a text or a list of texts that end an answer.")
    return () if list(texts) == WRITTEN_BY_DEFAULT else tuple(text for text in texts if text)


def conversation_of(
    messages: Sequence[Mapping[str, Any]], *, system_prompt: str | None = None, image_newline: bool = False
) -> list[dict[str, Any]]:
    """A question in the processor's shape.

    Args:
        messages: lmms-eval's: `role`, and `content` as a list of parts, in which a picture stands under `url`.
        system_prompt: in place of the task's own and of the chat template's; "" for none.
        image_newline: whether a line break stands after each picture.

    Raises:
        ValueError: a part that is neither text nor a picture.
    """
    turns = [
        {"role": message["role"], "content": _parts(message["content"], image_newline)}
        for message in messages
        if system_prompt is None or message["role"] != "system"
    ]
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*system, *turns]


def _parts(content: Any, image_newline: bool) -> Any:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] == "text":
            parts.append({"type": "text", "text": part["text"]})
        elif part["type"] == "image":
            parts.append({"type": "image", "image": part["url"]})
            parts += [{"type": "text", "text": "\n"}] if image_newline else []
        else:
            raise ValueError(
                f"Found a part of type {part['type']!r} in a question; expected text and images: DeepSeek-VL models "
                "read neither videos nor sound. Choose another task."
            )
    return parts


def batches_of(asked: Sequence[Mapping[str, Any]], lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Numbers of questions that go together: asked alike, of about the same length, the longest first.

    Args:
        asked: for each question the task's `generation_kwargs`.
        lengths: of each question's text.
        batch_size: of a batch, at most.
    """
    alike: dict[str, list[int]] = {}
    for number, settings in enumerate(asked):
        alike.setdefault(repr(sorted(settings.items())), []).append(number)
    for numbers in alike.values():
        ordered = sorted(numbers, key=lambda number: -lengths[number])
        for start in range(0, len(ordered), batch_size):
            yield ordered[start : start + batch_size]
