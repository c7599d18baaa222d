"""Checks of a model's inputs that every family makes."""

from typing import Any

import torch
from transformers.utils import logging

from ..cpu.dtypes import slowness

logger = logging.get_logger(__name__)

IMAGES_LEFT_OUT = (
    "The prompt has image places, but no images were passed. Pass the pixel values that the processor gives beside the "
    "input_ids."
)
PLACEHOLDERS_ALONE = (
    "The prompt holds image tokens, but fewer than one image takes, and no images were passed. The answer knows of no "
    "picture. If the prompt was encoded by the tokenizer alone, encode it with the checkpoint's processor, together "
    "with the pictures."
)


def check_exactly_one(input_ids: Any, inputs_embeds: Any) -> None:
    """Raises ValueError unless one of `input_ids` and `inputs_embeds` is given, and only one."""
    if (input_ids is None) == (inputs_embeds is None):
        found = "neither input_ids nor inputs_embeds" if input_ids is None else "both input_ids and inputs_embeds"
        raise ValueError(f"Found {found}; pass exactly one of them.")


def check_not_encoded_twice(image_features: Any) -> None:
    """Raises ValueError if images came as features although they came as pixels too."""
    if image_features is not None:
        raise ValueError("Found both pixel_values and mm_encoder_outputs['image']; pass one of them.")


def check_none_missing(image_inputs: dict[str, Any]) -> None:
    """Raises ValueError if some of a model's image inputs are given and others are not."""
    missing = [name for name, value in image_inputs.items() if value is None]
    if missing and len(missing) < len(image_inputs):
        raise ValueError(
            f"{missing[0]} is missing. The model reads images from {' and '.join(image_inputs)} together; pass both, "
            "as the processor gives them. If TRL's GRPOTrainer left it out, give that "
            "processing_class=deepseek_vl_hf.grpo_processor(processor, model)."
        )


def hold_an_image(config: Any, places: torch.Tensor) -> bool:
    """Whether some prompt has the places of at least one image.

    Fewer are none: a model may have generated the image token.

    Args:
        config: the model's; its `fewest_image_tokens` says what the smallest image takes.
        places: bool [batch, sequence], or ids' comparison with the image token of any shape ending in sequence.
    """
    return bool((places.sum(-1) >= config.fewest_image_tokens).any())


def warn_of_images_left_out(config: Any, input_ids: Any, images: Any, cache: Any) -> None:
    """Says once that image places keep the embedding of their own token.

    A warning and no error, because transformers promises that `forward` takes any ids; `generate` refuses such prompts.
    On top of a cache nothing is said, because the images may have been read before.
    """
    if torch.compiler.is_compiling() or input_ids is None or images is not None or cache is not None:
        return
    if not hold_an_image(config, input_ids == config.image_token_id):
        return
    logger.warning_once(f"{IMAGES_LEFT_OUT} The model reads the embedding of the image token in their places.")


def check_pixels(pixel_values: torch.Tensor, name: str, image_size: int, num_channels: int = 3) -> None:
    """Raises TypeError or ValueError unless `pixel_values` is [images, channels, image_size, image_size], not empty."""
    if not isinstance(pixel_values, torch.Tensor):
        raise TypeError(f"{name} is a {type(pixel_values).__name__}; expected a tensor, as the processor gives it.")
    if pixel_values.shape[0] == 0:
        raise ValueError(f"{name} holds no image. Leave it out for text alone.")
    expected = (num_channels, image_size, image_size)
    if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
        raise ValueError(
            f"{name} has the shape {list(pixel_values.shape)}; expected [images, {', '.join(map(str, expected))}], all "
            "images of the batch in one row. Use the image processor that belongs to this checkpoint."
        )


def warn_of_slow_type(config: Any, hidden_states: torch.Tensor) -> None:
    """Says once that this processor computes a type slowly, and what is right here.

    The published files are float16 or bfloat16, and `dtype="auto"` keeps that. 4-bit weights come with a type of their
    own choice.
    """
    if torch.compiler.is_compiling() or hidden_states.device.type != "cpu" or hidden_states.dtype == torch.float32:
        return
    slow = None if hasattr(config, "quantization_config") else slowness(hidden_states.dtype)
    if slow is not None:
        logger.warning_once(slow)
