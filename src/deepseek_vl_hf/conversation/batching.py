"""From prompts and pictures to one padded batch: image counts, BOS, truncation, padding.

The functions that every family's processor calls; each knows a tokenizer, none knows a config or a model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from transformers.utils import PaddingStrategy, logging

from ..hf.processors import tokenizer_settings
from ..pictures.opening import flatten_pictures
from .messages import Conversation, without_lone_surrogates
from .prompts import EncodedPrompt, break_controls, encode_prompts, unused_mark

logger = logging.get_logger(__name__)

# A tokenizer that knows no length has a model_max_length of 1e30.
_LONGEST_PADDING = 10**9

# Arguments of a tokenizer's call that have no meaning for a prompt that is encoded piece by piece.
_UNSUPPORTED_TEXT_ARGUMENTS = (
    "text_pair",
    "text_target",
    "text_pair_target",
    "stride",
    "is_split_into_words",
    "return_overflowing_tokens",
    "return_token_type_ids",
)


def as_prompts(text: Any) -> list[str]:
    """One prompt or a sequence of prompts as a list.

    Raises:
        TypeError: something is not a string.
    """
    prompts = [text] if isinstance(text, str) else text
    if not isinstance(prompts, (list, tuple)) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(
            f"Found {'an empty list' if prompts == [] else type(text).__name__} as text; expected a prompt (string) or "
            "a list of prompts. For messages call apply_chat_template(..., tokenize=True, return_dict=True)."
        )
    return [without_lone_surrogates(prompt) for prompt in prompts]


def match_images(images: Any, prompts: Sequence[str] | None, image_token: str) -> list[Any]:
    """Flattens pictures into the order of the image places and checks that each place has one.

    Args:
        images: one picture, a list of pictures for all prompts together, or one list of pictures (or None) per prompt;
            None for text alone. A four-dimensional array is a list of pictures.
        prompts: the prompts, or None for pictures alone.
        image_token: the image place in a prompt.

    Returns:
        The pictures, in order.

    Raises:
        ValueError: numbers of places and pictures differ; names the prompt if the pictures came as one list per prompt.
    """
    if isinstance(images, (list, tuple)) and any(isinstance(group, (list, tuple)) for group in images):
        images = [[] if group is None else group for group in images]  # None for a prompt without pictures
    flat = [] if images is None else flatten_pictures(images)
    if prompts is None:
        return flat
    places = [prompt.count(image_token) for prompt in prompts]
    nested = isinstance(images, (list, tuple)) and bool(images)
    nested = nested and all(isinstance(group, (list, tuple)) for group in images)
    if nested and len(images) != len(prompts):
        raise ValueError(
            f"images holds {len(images)} lists, but there are {len(prompts)} prompts. Pass one list of images per "
            "prompt, or one flat list for all of them."
        )
    for number, (expected, group) in enumerate(zip(places, images, strict=True) if nested else (), 1):
        found = len(flatten_pictures(group))
        if expected != found:
            raise ValueError(
                f"Conversation {number} has {expected} image places ({image_token}) but {found} images. Give each "
                "image one place, and each place one image."
            )
    if sum(places) != len(flat):
        raise ValueError(
            f"The {len(places)} prompts have {sum(places)} image places ({image_token}), by prompt {places}, but "
            f"{len(flat)} images were passed. Give each image one place, and each place one image."
        )
    return flat


def mark_typed_text(conversations: Sequence[Conversation], controls: tuple[str, ...]) -> tuple[list[Conversation], str]:
    """Breaks the control strings in everything that people typed.

    Returns:
        The conversations as copies, and the mark for `encode_batch`.
    """
    mark = unused_mark(text for conversation in conversations for text in _typed_texts(conversation))
    # Every string of a message but its role, in case a template prints more than the content.
    marked = [
        [
            {
                key: value if key == "role" else _broken(value, controls, mark, key == "content")
                for key, value in message.items()
            }
            for message in conversation
        ]
        for conversation in conversations
    ]
    return marked, mark


def _broken(value: Any, controls: tuple[str, ...], mark: str, is_content: bool = False) -> Any:
    """A value with the control strings broken in all its strings; of a content's parts in their texts alone."""
    if isinstance(value, str):
        return break_controls(value, controls, mark)
    if is_content:
        return [{**part, "text": _broken(part["text"], controls, mark)} if "text" in part else part for part in value]
    if isinstance(value, Mapping):
        return {key: _broken(each, controls, mark) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_broken(each, controls, mark) for each in value]
    return value


def _typed_texts(conversation: Conversation) -> Iterator[str]:
    for message in conversation:
        for key, value in message.items():
            if key != "content" or isinstance(value, str):
                yield from _strings(value)
            else:
                yield from (part["text"] for part in value if part["type"] == "text")


def _strings(value: Any) -> Iterator[str]:
    """All strings in a value as JSON has them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for pair in value.items() for each in pair for text in _strings(each))
    elif isinstance(value, (list, tuple)):
        yield from (text for each in value for text in _strings(each))


def encode_batch(
    tokenizer: Any,
    prompts: Sequence[str],
    text_kwargs: dict[str, Any],
    *,
    controls: tuple[str, ...],
    image_token_id: int,
    fixed_texts: tuple[str, ...] = (),
    mark: str | None = None,
    if_too_long: Callable[[int], str] | None,
) -> dict[str, Any]:
    """Encodes prompts whose image places are already expanded.

    Each prompt begins with exactly one BOS: it is added where the prompt does not bring it, unless
    `add_special_tokens` is false.

    Args:
        tokenizer: the tokenizer; its `padding_side`, `truncation_side` and `model_max_length` are obeyed. One whose
            files name no padding side pads on the left, as the original does.
        prompts: prompts with one image token per token of an image.
        text_kwargs: a tokenizer call's arguments (padding, truncation, max_length, ...).
        controls: strings that become control tokens.
        image_token_id: id of the image token, which truncation must not remove.
        fixed_texts: texts that are encoded apart from what follows them.
        mark: what breaks control strings in typed text.
        if_too_long: what to do about the prompt of a number, if it is longer than the model was trained for; None if
            that shall not be said.

    Returns:
        `input_ids` and what was asked for beside it, as lists.

    Raises:
        ValueError: truncation would cut image places away; an argument that is not supported.
    """
    for name in _UNSUPPORTED_TEXT_ARGUMENTS:
        if text_kwargs.get(name):
            raise ValueError(
                f"{name}={text_kwargs[name]!r} is not supported: prompts are encoded piece by piece around their "
                "control tokens. Leave it out, or call processor.tokenizer for text without images."
            )
    encoded = encode_prompts(tokenizer, prompts, controls, mark, fixed_texts)
    if text_kwargs.get("add_special_tokens") in (None, True):
        encoded = [_with_bos(prompt, tokenizer.bos_token_id) for prompt in encoded]
    if text_kwargs.get("truncation") not in (None, False, "do_not_truncate"):
        limit = text_kwargs.get("max_length") or tokenizer.model_max_length
        encoded = [_truncate(prompt, limit, tokenizer, image_token_id) for prompt in encoded]
    if if_too_long is not None:
        _warn_of_long_prompts(encoded, tokenizer.model_max_length, if_too_long)
    return _pad(encoded, tokenizer, text_kwargs)


def _with_bos(prompt: EncodedPrompt, bos_token_id: int | None) -> EncodedPrompt:
    if bos_token_id is None or prompt.input_ids[:1] == [bos_token_id]:
        return prompt
    return EncodedPrompt([bos_token_id, *prompt.input_ids], [(0, 0), *prompt.offsets])


def _truncate(prompt: EncodedPrompt, limit: int, tokenizer: Any, image_token_id: int) -> EncodedPrompt:
    length = len(prompt.input_ids)
    if length <= limit:
        return prompt
    if tokenizer.truncation_side == "right":
        kept = list(range(limit))
    else:  # a BOS in front stays in front
        first = [0] if prompt.input_ids[0] == tokenizer.bos_token_id else []
        kept = first + list(range(length - limit + len(first), length))
    result = EncodedPrompt([prompt.input_ids[i] for i in kept], [prompt.offsets[i] for i in kept])
    places, remaining = prompt.input_ids.count(image_token_id), result.input_ids.count(image_token_id)
    if places != remaining:
        raise ValueError(
            f"Truncating the prompt from {length} to {limit} tokens would remove {places - remaining} of its {places} "
            "image places. Raise max_length, turn truncation off, or send fewer images."
        )
    return result


def _warn_of_long_prompts(encoded: Sequence[EncodedPrompt], limit: int, what_to_do: Callable[[int], str]) -> None:
    length, number = max((len(prompt.input_ids), number) for number, prompt in enumerate(encoded))
    if length > limit:
        logger.warning(
            f"A prompt of {length} tokens is longer than the {limit} positions that the model was trained for; what "
            f"lies beyond them is read badly. {what_to_do(number)}"
        )


def _pad(encoded: Sequence[EncodedPrompt], tokenizer: Any, text_kwargs: dict[str, Any]) -> dict[str, Any]:
    lengths = [len(prompt.input_ids) for prompt in encoded]
    targets = _padded_lengths(lengths, tokenizer, text_kwargs)
    gaps = [target - length for target, length in zip(targets, lengths, strict=True)]
    side = text_kwargs.get("padding_side") or _padding_side(tokenizer)
    if side not in ("left", "right"):
        raise ValueError(f"padding_side is {side!r}; expected 'left' or 'right'.")

    def padded(rows: Sequence[Sequence[Any]], value: Any) -> list[list[Any]]:
        if side == "left":
            return [[value] * gap + list(row) for row, gap in zip(rows, gaps, strict=True)]
        return [list(row) + [value] * gap for row, gap in zip(rows, gaps, strict=True)]

    data: dict[str, Any] = {
        "input_ids": padded([prompt.input_ids for prompt in encoded], tokenizer.pad_token_id),
    }
    if text_kwargs.get("return_attention_mask") in (None, True):
        data["attention_mask"] = padded([[1] * length for length in lengths], 0)
    if text_kwargs.get("return_offsets_mapping"):
        data["offset_mapping"] = padded([prompt.offsets for prompt in encoded], (0, 0))
    if text_kwargs.get("return_special_tokens_mask"):
        special = set(tokenizer.all_special_ids)
        data["special_tokens_mask"] = padded([[int(i in special) for i in p.input_ids] for p in encoded], 1)
    if text_kwargs.get("return_length"):
        data["length"] = [length + gap for length, gap in zip(lengths, gaps, strict=True)]
    return data


def _padding_side(tokenizer: Any) -> str:
    """What the tokenizer's files or its user say; left where only the general default, right, speaks."""
    said = "padding_side" in tokenizer_settings(tokenizer) or tokenizer.padding_side != type(tokenizer).padding_side
    return tokenizer.padding_side if said else "left"


def _padded_lengths(lengths: Sequence[int], tokenizer: Any, text_kwargs: dict[str, Any]) -> list[int]:
    padding = text_kwargs.get("padding")
    strategy = {True: "longest", False: "do_not_pad", None: "do_not_pad"}.get(padding, padding)
    if PaddingStrategy(strategy) == PaddingStrategy.DO_NOT_PAD:
        return list(lengths)
    if tokenizer.pad_token_id is None:
        raise ValueError("Padding was asked for, but the tokenizer has no pad token. Set tokenizer.pad_token first.")
    target = max(lengths, default=0)
    if PaddingStrategy(strategy) == PaddingStrategy.MAX_LENGTH:
        target = text_kwargs.get("max_length") or tokenizer.model_max_length
        if target > _LONGEST_PADDING:
            raise ValueError(
                "padding='max_length' was asked for, but neither max_length nor the tokenizer's model_max_length says "
                "how long that is. Pass max_length."
            )
    multiple = text_kwargs.get("pad_to_multiple_of") or 1
    target = -(-target // multiple) * multiple
    return [max(length, target) for length in lengths]
