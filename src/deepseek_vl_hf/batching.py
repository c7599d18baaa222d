"""From prompts and pictures to one padded batch: image counts, BOS, truncation, padding.

The functions that every family's processor calls; each knows a tokenizer, none knows a config or a model.
"""

from collections.abc import Sequence
from typing import Any

from transformers.utils import PaddingStrategy, logging

from .messages import Conversation
from .prompts import EncodedPrompt, break_controls, encode_prompts, unused_mark

logger = logging.get_logger(__name__)

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
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(
            f"Found text of type {type(text).__name__}; expected a prompt (string) or a list of prompts. For messages "
            "call apply_chat_template(..., tokenize=True, return_dict=True)."
        )
    return list(prompts)


def match_images(images: Any, prompts: Sequence[str] | None, image_token: str) -> list[Any]:
    """Flattens pictures into the order of the image places and checks that each place has one.

    Args:
        images: one picture, a list of pictures for all prompts together, or one list of pictures per prompt; None for
            text alone.
        prompts: the prompts, or None for pictures alone.
        image_token: the image place in a prompt.

    Returns:
        The pictures, in order.

    Raises:
        ValueError: numbers of places and pictures differ; names the prompt if the pictures came as one list per prompt.
    """
    if images is None:
        images = []
    elif not isinstance(images, (list, tuple)):
        images = _pictures_of_array(images)
    nested = bool(images) and all(isinstance(group, (list, tuple)) for group in images)
    flat = [image for group in images for image in group] if nested else list(images)
    if prompts is None:
        return flat
    places = [prompt.count(image_token) for prompt in prompts]
    if nested and len(images) == len(prompts):
        for number, (expected, group) in enumerate(zip(places, images, strict=True)):
            if expected != len(group):
                raise ValueError(
                    f"Conversation {number} has {expected} image places ({image_token}) but {len(group)} images. Give "
                    "each image one place, and each place one image."
                )
    if sum(places) != len(flat):
        raise ValueError(
            f"The {len(places)} prompts have {sum(places)} image places ({image_token}), by prompt {places}, but "
            f"{len(flat)} images were passed. Give each image one place, and each place one image."
        )
    return flat


def _pictures_of_array(images: Any) -> list[Any]:
    """A stacked array of pictures as a list; any other object is one picture."""
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def mark_typed_text(conversations: Sequence[Conversation], controls: tuple[str, ...]) -> tuple[list[Conversation], str]:
    """Breaks the control strings in everything that people typed.

    Returns:
        The conversations as copies, and the mark for `encode_batch`.
    """
    mark = unused_mark(text for conversation in conversations for text in _typed_texts(conversation))

    def broken(content: Any) -> Any:
        if isinstance(content, str):
            return break_controls(content, controls, mark)
        return [{**part, "text": broken(part["text"])} if part["type"] == "text" else part for part in content]

    marked = [
        [{**message, "content": broken(message["content"])} for message in conversation]
        for conversation in conversations
    ]
    return marked, mark


def _typed_texts(conversation: Conversation) -> list[str]:
    contents = [message["content"] for message in conversation]
    strings = [content for content in contents if isinstance(content, str)]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    return strings + [part["text"] for part in parts if part["type"] == "text"]


def encode_batch(
    tokenizer: Any,
    prompts: Sequence[str],
    text_kwargs: dict[str, Any],
    *,
    controls: tuple[str, ...],
    image_token_id: int,
    mark: str | None = None,
) -> dict[str, Any]:
    """Encodes prompts whose image places are already expanded.

    Each prompt begins with exactly one BOS: it is added where the prompt does not bring it, unless
    `add_special_tokens` is false.

    Args:
        tokenizer: the tokenizer; its `padding_side`, `truncation_side` and `model_max_length` are obeyed.
        prompts: prompts with one image token per token of an image.
        text_kwargs: a tokenizer call's arguments (padding, truncation, max_length, ...).
        controls: strings that become control tokens.
        image_token_id: id of the image token, which truncation must not remove.
        mark: what breaks control strings in typed text.

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
    encoded = encode_prompts(tokenizer, prompts, controls, mark)
    if text_kwargs.get("add_special_tokens") in (None, True):
        encoded = [_with_bos(prompt, tokenizer.bos_token_id) for prompt in encoded]
    if text_kwargs.get("truncation") not in (None, False, "do_not_truncate"):
        limit = text_kwargs.get("max_length") or tokenizer.model_max_length
        encoded = [_truncate(prompt, limit, tokenizer.truncation_side, image_token_id) for prompt in encoded]
    _warn_of_long_prompts(encoded, tokenizer.model_max_length)
    return _pad(encoded, tokenizer, text_kwargs)


def _with_bos(prompt: EncodedPrompt, bos_token_id: int | None) -> EncodedPrompt:
    if bos_token_id is None or prompt.input_ids[:1] == [bos_token_id]:
        return prompt
    return EncodedPrompt([bos_token_id, *prompt.input_ids], [(0, 0), *prompt.offsets])


def _truncate(prompt: EncodedPrompt, limit: int, side: str, image_token_id: int) -> EncodedPrompt:
    length = len(prompt.input_ids)
    if length <= limit:
        return prompt
    kept = slice(limit) if side == "right" else slice(length - limit, None)
    result = EncodedPrompt(prompt.input_ids[kept], prompt.offsets[kept])
    places, remaining = prompt.input_ids.count(image_token_id), result.input_ids.count(image_token_id)
    if places != remaining:
        raise ValueError(
            f"Truncating the prompt from {length} to {limit} tokens would remove {places - remaining} of its {places} "
            "image places. Raise max_length, turn truncation off, or send fewer images."
        )
    return result


def _warn_of_long_prompts(encoded: Sequence[EncodedPrompt], limit: int) -> None:
    longest = max((len(prompt.input_ids) for prompt in encoded), default=0)
    if longest > limit:
        logger.warning(
            f"A prompt of {longest} tokens is longer than the {limit} positions that the model was trained for; what "
            "lies beyond them is read badly. Send fewer images or less text, or pass truncation=True."
        )


def _pad(encoded: Sequence[EncodedPrompt], tokenizer: Any, text_kwargs: dict[str, Any]) -> dict[str, Any]:
    lengths = [len(prompt.input_ids) for prompt in encoded]
    targets = _padded_lengths(lengths, tokenizer, text_kwargs)
    gaps = [target - length for target, length in zip(targets, lengths, strict=True)]
    side = text_kwargs.get("padding_side") or tokenizer.padding_side

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
    multiple = text_kwargs.get("pad_to_multiple_of") or 1
    target = -(-target // multiple) * multiple
    return [max(length, target) for length in lengths]
