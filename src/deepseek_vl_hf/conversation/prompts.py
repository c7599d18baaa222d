"""From prompt text to token ids, with text that people typed kept apart from control tokens.

A rendered prompt holds control tokens (BOS, EOS, image places) that the chat template wrote, and text that people
typed. The typed text may contain the very same strings. So, before the template is rendered, the control strings in
typed text are broken by a mark, a character that occurs nowhere in the conversation. The rendered prompt is then cut
at its unbroken control strings, the mark is taken out of the rest, and the rest is encoded as plain text: by the
tokenizer itself where no mark was found, and otherwise by a copy of its backend that knows no special tokens. (The
tokenizer has a switch for that, but the switch stays set and is shared by all threads.)
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

# Private-use characters: no tokenizer and no keyboard gives them a meaning.
_MARK_CANDIDATES = tuple(chr(code) for code in range(0xE000, 0xE100))


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of one prompt and the span of characters, [start, end), that each of them covers."""

    input_ids: list[int]
    offsets: list[tuple[int, int]]


def control_tokens(tokenizer: Any, *extra: str) -> tuple[str, ...]:
    """The strings that a prompt may use as control tokens: every special token of the tokenizer, and `extra`."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added, *extra]))


@lru_cache
def _control_pattern(controls: tuple[str, ...]) -> re.Pattern[str]:
    # Longest first, so that a token is found before another one that it contains.
    return re.compile("(" + "|".join(re.escape(token) for token in sorted(controls, key=len, reverse=True)) + ")")


def unused_mark(texts: Iterable[str]) -> str:
    """A character that occurs in none of `texts`.

    Raises:
        ValueError: the texts hold all 256 candidates.
    """
    used = set().union(*texts)
    for mark in _MARK_CANDIDATES:
        if mark not in used:
            return mark
    raise ValueError(
        "The conversation holds each of the 256 private-use characters U+E000 to U+E0FF, one of which has to be free "
        "to tell typed text from control tokens. Remove one of them from the text."
    )


def break_controls(text: str, controls: tuple[str, ...], mark: str) -> str:
    """Puts the mark after the first character of each control string in `text`."""
    return _control_pattern(controls).sub(lambda match: match[0][0] + mark + match[0][1:], text)


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[str],
    controls: tuple[str, ...],
    mark: str | None = None,
    fixed_texts: tuple[str, ...] = (),
) -> list[EncodedPrompt]:
    """Encodes prompts, cutting each at its control strings and encoding the text between them as plain text.

    The ids are those that the tokenizer gives the whole prompt, except where typed text holds a (marked) control
    string, and after fixed texts, where the tokenizer could merge. No BOS or EOS is added.

    Args:
        tokenizer: a tokenizer of the `tokenizers` backend.
        prompts: the prompts' texts.
        controls: strings that become control tokens.
        mark: character that breaks control strings in typed text; None if nothing is marked.
        fixed_texts: texts after which the prompt is cut as well, such as the head of a turn.
    """
    cutting = (*controls, *fixed_texts)
    fixed = {text: tokenizer.encode(text, add_special_tokens=False) for text in fixed_texts}
    control_ids = {**{token: [tokenizer.convert_tokens_to_ids(token)] for token in controls}, **fixed}
    pieces = [list(_cut(prompt, cutting)) for prompt in prompts]
    texts = [text for prompt in pieces for _, text, is_control in prompt if not is_control]
    encoded = iter(_encode_texts(tokenizer, texts, mark))
    return [_join(prompt, encoded, control_ids) for prompt in pieces]


def _cut(prompt: str, controls: tuple[str, ...]) -> Iterator[tuple[int, str, bool]]:
    """(start, text, is a control token) for each non-empty piece of the prompt, in order."""
    start = 0
    for number, piece in enumerate(_control_pattern(controls).split(prompt)):
        if piece:
            yield start, piece, number % 2 == 1
        start += len(piece)


def _encode_texts(tokenizer: Any, texts: Sequence[str], mark: str | None) -> list[EncodedPrompt]:
    """Encodes pieces of plain text; offsets count the characters of the piece as given, marks included."""
    marked = [mark is not None and mark in text for text in texts]
    plain = [text for text, is_marked in zip(texts, marked, strict=True) if not is_marked]
    unmarked = iter(_encode_unmarked(tokenizer, plain))
    return [
        _encode_marked(tokenizer, text, str(mark)) if is_marked else next(unmarked)
        for text, is_marked in zip(texts, marked, strict=True)
    ]


def _encode_unmarked(tokenizer: Any, texts: Sequence[str]) -> list[EncodedPrompt]:
    if not texts:
        return []
    encoding = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return [
        EncodedPrompt(list(ids), [tuple(offset) for offset in offsets])
        for ids, offsets in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    ]


def _encode_marked(tokenizer: Any, text: str, mark: str) -> EncodedPrompt:
    encoding = _backend_without_special_tokens(tokenizer).encode(text.replace(mark, ""), add_special_tokens=False)
    kept = [position for position, character in enumerate(text) if character != mark]
    offsets = [(kept[start], kept[end - 1] + 1) if end > start else (0, 0) for start, end in encoding.offsets]
    return EncodedPrompt(encoding.ids, offsets)


_BACKENDS: WeakKeyDictionary[Any, tuple[int, Tokenizer]] = WeakKeyDictionary()


def _backend_without_special_tokens(tokenizer: Any) -> Tokenizer:
    """A copy of the tokenizer's backend that encodes special tokens as text; made once per tokenizer and vocabulary."""
    size, backend = _BACKENDS.get(tokenizer, (0, None))
    if size != len(tokenizer) or backend is None:
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        _BACKENDS[tokenizer] = len(tokenizer), backend
    return backend


def _join(
    pieces: list[tuple[int, str, bool]], encoded: Iterator[EncodedPrompt], control_ids: dict[str, list[int]]
) -> EncodedPrompt:
    input_ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for start, text, is_control in pieces:
        if is_control:
            input_ids += control_ids[text]
            offsets += [(start, start + len(text))] * len(control_ids[text])
        else:
            piece = next(encoded)
            input_ids += piece.input_ids
            offsets += [(start + first, start + last) for first, last in piece.offsets]
    return EncodedPrompt(input_ids, offsets)
