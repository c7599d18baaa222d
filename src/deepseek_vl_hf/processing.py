"""What the families' processors do alike, as functions over a processor.

A processor here has an `image_processor`, a `tokenizer`, `image_token`, `image_token_id` and `num_image_tokens`.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from transformers import BatchFeature
from transformers.processing_utils import MultiModalData

from .batching import as_prompts, encode_batch, mark_typed_text, match_images
from .chat_templates import IMAGE_PLACEHOLDER
from .images import open_images
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


# The mark of the conversation that is being tokenised. transformers' apply_chat_template calls the processor in between
# and, depending on its version, loses arguments that are not its own; a context variable is safe with threads as well.
_typed_text_mark: ContextVar[str | None] = ContextVar("typed_text_mark", default=None)


def prepare_inputs(processor: Any, images: Any, text: Any, kwargs: dict[str, Any]) -> BatchFeature:
    """Prepares finished prompts and their pictures; the body of every processor's `__call__`.

    Raises:
        ValueError: nothing was passed, a picture cannot be read, or images and image places differ in number.
    """
    for modality in ("videos", "audio"):
        if kwargs.pop(modality, None) is not None:
            raise ValueError(f"Found {modality}; DeepSeek-VL reads text and images. Pass single frames as images.")
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
        data.update(_encode(processor, prompts, len(pictures), text_kwargs))
    if pictures:
        opened = open_images(pictures, images_kwargs.get("input_data_format"))
        data.update(processor.image_processor(opened, **{**images_kwargs, "return_tensors": return_tensors}))
    return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=processor.skip_tensor_conversion)


def _encode(processor: Any, prompts: list[str], num_images: int, text_kwargs: dict[str, Any]) -> dict[str, Any]:
    expanded, replacements = processor.get_text_with_replacements(
        prompts, [processor.image_token * processor.num_image_tokens] * num_images
    )
    data = encode_batch(
        processor.tokenizer,
        expanded,
        text_kwargs,
        controls=control_tokens(processor.tokenizer, processor.image_token),
        image_token_id=processor.image_token_id,
        mark=_typed_text_mark.get(),
    )
    if text_kwargs.get("return_mm_token_type_ids"):
        data["mm_token_type_ids"] = processor.create_mm_token_type_ids(data["input_ids"])
    if text_kwargs.get("return_text_replacement_offsets"):
        data["text_replacement_offsets"] = replacements
    return data


def apply_chat_template(
    processor: Any, library_method: Callable[..., Any], conversation: Any, tokenize: bool, kwargs: dict[str, Any]
) -> Any:
    """Normalises conversations, marks what people typed, and hands both to transformers' method.

    Args:
        processor: the processor.
        library_method: transformers' `apply_chat_template` of this processor.
        conversation: messages in any accepted shape, or a batch of conversations.
        tokenize: whether to encode; only then is anything marked.
        kwargs: everything else for the library's method.
    """
    # Newer transformers ask for this protection; here it is always on.
    kwargs = {key: value for key, value in kwargs.items() if key != "sanitize_control_tokens"}
    batched = is_batch(conversation)
    conversations = normalize_conversations(conversation if batched else [conversation], processor.image_token)
    if kwargs.get("continue_final_message") and all(c[-1]["content"] == "" for c in conversations):
        # An empty answer at the end, as the original writes it, is an open one: there is nothing to continue.
        kwargs.update(continue_final_message=False, add_generation_prompt=True)
    mark = None
    if tokenize:
        controls = control_tokens(processor.tokenizer, processor.image_token)
        conversations, mark = mark_typed_text(conversations, controls)
    token = _typed_text_mark.set(mark)
    try:
        return library_method(conversations if batched else conversations[0], tokenize=tokenize, **kwargs)
    finally:
        _typed_text_mark.reset(token)


def same_number_of_tokens(image_sizes: Sequence[Sequence[int]] | None, num_image_tokens: int) -> MultiModalData:
    """Tokens and patches per image, where every image takes the same number, whatever its size."""
    if image_sizes is None:
        return MultiModalData()
    count = len(image_sizes)
    return MultiModalData(num_image_tokens=[num_image_tokens] * count, num_image_patches=[1] * count)
