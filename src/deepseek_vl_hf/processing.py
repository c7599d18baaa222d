"""What the families' processors do alike, as functions over a processor.

A processor here has an `image_processor`, a `tokenizer`, `image_token`, `image_token_id` and `num_image_tokens`.
"""

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature
from transformers.processing_utils import MultiModalData

from .batching import as_prompts, encode_batch, mark_typed_text, match_images
from .chat_templates import IMAGE_PLACEHOLDER
from .messages import is_batch, normalize_conversations
from .prompts import control_tokens


def image_token_of(tokenizer: Any) -> str:
    """The token that stands for an image in a prompt.

    Raises:
        ValueError: the tokenizer does not have it.
    """
    image_token = getattr(tokenizer, "image_token", None) or IMAGE_PLACEHOLDER
    if image_token not in tokenizer.get_vocab():
        raise ValueError(
            f"The tokenizer has no token {image_token!r}, which stands for an image in a prompt. Load the tokenizer of "
            "a DeepSeek-VL checkpoint, or add the token to this one and to the model."
        )
    return image_token


def pad_on_the_left_by_default(tokenizer: Any) -> None:
    """Lets a tokenizer whose files name no side pad on the left, as the original does."""
    if "padding_side" not in tokenizer.init_kwargs:
        tokenizer.padding_side = "left"


def prepare_inputs(
    processor: Any, images: Any, text: Any, typed_text_mark: str | None, kwargs: dict[str, Any]
) -> BatchFeature:
    """Prepares finished prompts and their pictures; the body of every processor's `__call__`.

    Raises:
        ValueError: nothing was passed, or images and image places differ in number.
    """
    if images is None and text is None:
        raise ValueError("Found neither text nor images; pass a prompt, pictures, or both.")
    merged = processor._merge_kwargs(
        processor.valid_processor_kwargs, tokenizer_init_kwargs=processor.tokenizer.init_kwargs, **kwargs
    )
    text_kwargs, images_kwargs = merged["text_kwargs"], merged["images_kwargs"]
    return_tensors = text_kwargs.get("return_tensors", "pt")
    prompts = None if text is None else as_prompts(text)
    pictures = match_images(images, prompts, processor.image_token)
    data: dict[str, Any] = {}
    if prompts is not None:
        data.update(_encode(processor, prompts, len(pictures), text_kwargs, typed_text_mark))
    if pictures:
        data.update(processor.image_processor(pictures, **{**images_kwargs, "return_tensors": return_tensors}))
    return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=processor.skip_tensor_conversion)


def _encode(
    processor: Any, prompts: list[str], num_images: int, text_kwargs: dict[str, Any], mark: str | None
) -> dict[str, Any]:
    expanded, replacements = processor.get_text_with_replacements(
        prompts, [processor.image_token * processor.num_image_tokens] * num_images
    )
    data = encode_batch(
        processor.tokenizer,
        expanded,
        text_kwargs,
        controls=control_tokens(processor.tokenizer, processor.image_token),
        image_token_id=processor.image_token_id,
        mark=mark,
    )
    if text_kwargs.get("return_mm_token_type_ids"):
        data["mm_token_type_ids"] = processor.create_mm_token_type_ids(data["input_ids"])
    if text_kwargs.get("return_text_replacement_offsets"):
        data["text_replacement_offsets"] = replacements
    return data


def prepare_chat(
    processor: Any, conversation: Any, tokenize: bool, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Normalises conversations and, if they are to be tokenised, marks what people typed.

    Returns:
        The conversation (or batch) and the keyword arguments for transformers' `apply_chat_template`, which calls the
        processor with the mark.
    """
    # Newer transformers ask for this protection; here it is always on.
    kwargs = {key: value for key, value in kwargs.items() if key != "sanitize_control_tokens"}
    batched = is_batch(conversation)
    conversations = normalize_conversations(conversation if batched else [conversation], processor.image_token)
    if tokenize:
        controls = control_tokens(processor.tokenizer, processor.image_token)
        conversations, mark = mark_typed_text(conversations, controls)
        kwargs["processor_kwargs"] = {**(kwargs.get("processor_kwargs") or {}), "typed_text_mark": mark}
    return conversations if batched else conversations[0], kwargs


def same_number_of_tokens(image_sizes: Sequence[Sequence[int]] | None, num_image_tokens: int) -> MultiModalData:
    """Tokens and patches per image, where every image takes the same number, whatever its size."""
    if image_sizes is None:
        return MultiModalData()
    count = len(image_sizes)
    return MultiModalData(num_image_tokens=[num_image_tokens] * count, num_image_patches=[1] * count)
