"""Checks of a model's inputs that every family makes."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

IMAGES_LEFT_OUT = (
    "The prompt has image places, but no images were passed. Pass the pixel values that the processor gives beside the "
    "input_ids."
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
            "as the processor gives them."
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


def warn_of_slow_float16(hidden_states: torch.Tensor) -> None:
    """Says once that float16 is the wrong choice on a CPU.

    The published files are float16 and `dtype="auto"` keeps that. CPUs have no float16 arithmetic for large products
    (60 GFLOP/s against 860 in bfloat16, measured on two AVX512-BF16 cores).
    """
    if torch.compiler.is_compiling() or hidden_states.dtype != torch.float16 or hidden_states.device.type != "cpu":
        return
    logger.warning_once(
        "The model runs in float16 on a CPU, where float16 products are many times slower than bfloat16 ones. Load it "
        "with dtype=torch.bfloat16, as in from_pretrained(..., dtype=torch.bfloat16) or pipeline(..., "
        "dtype=torch.bfloat16)."
    )


def check_quantization_config(config: Any) -> None:
    """Answers a `quantization_config` of torchao's that is not, or not well, suited to these models.

    Raises:
        ValueError: its recipe is a string such as "int4_weight_only", which transformers has given up.
    """
    recipe = config.get("quant_type") if isinstance(config, dict) else getattr(config, "quant_type", config)
    line = "quantization_config=deepseek_vl_hf.int4_config(group_size=128)"
    if isinstance(recipe, str):
        raise ValueError(f"Found {recipe!r} as the recipe of quantization_config. For 4-bit weights pass {line}.")
    if type(config).__name__ == "TorchAoConfig" and "Int4" in type(recipe).__name__:
        logger.warning_once(
            f"Found TorchAoConfig({type(recipe).__name__}), which quantizes the vision towers too and leaves experts "
            f"as they are. For 4-bit weights pass {line}."
        )


def check_quantized_are_read(unexpected: Iterable[str]) -> None:
    """Raises ValueError if tensors of quantized weights were left aside, and random weights have taken their place.

    Args:
        unexpected: names in the checkpoint that the model has no place for.
    """
    left = sorted(name for name in unexpected if name.endswith("_qdata"))
    if left:
        raise ValueError(
            f"The checkpoint holds quantized weights ({len(left)}, such as {left[0]}), but no quantization_config came "
            "with them: None was given for it, or its config.json has lost it. Leave quantization_config out to load "
            "the weights as they were saved; for weights that are not quantized load the original checkpoint."
        )


def has_4_bits(weight: torch.Tensor) -> bool:
    """Whether a weight is one of torchao's packed kinds of 4 bits, which this package's are as well."""
    return hasattr(weight, "scale_and_zero")


def bytes_packed(weight: torch.Tensor) -> int:
    """What a 4-bit weight takes, scales and zeros included."""
    return int(weight.qdata.nbytes + weight.scale_and_zero.nbytes)


def cannot_be_moved(weight: torch.Tensor, device: Any, dtype: torch.dtype) -> str:
    """Why a 4-bit weight stays where it is."""
    return (
        f"4-bit weights that were packed for {weight.device.type} in {weight.dtype} can be neither moved nor cast; "
        f"found {device} and {dtype}. Load the model again with the device and dtype that it shall have: "
        "int4_config(device=...) packs for cpu (bfloat16, float32) or cuda (bfloat16)."
    )


def check_quantized_can_be_moved(model: torch.nn.Module, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Raises RuntimeError if a move or cast would change 4-bit weights, before anything is moved."""
    quantized = {(p.device, p.dtype): p for p in model.parameters() if has_4_bits(p)}
    for (device, dtype), weight in quantized.items():
        moved = fn(torch.empty(0, device=device, dtype=dtype))
        if (moved.device.type, moved.dtype) != (device.type, dtype):
            raise RuntimeError(cannot_be_moved(weight, moved.device, moved.dtype))


def check_quantized_can_be_saved(model: Any, state_dict: Any) -> None:
    """Raises ValueError where 4-bit weights would be left out of a saved model, or replaced ones would."""
    if not any(map(has_4_bits, model.parameters())):
        return
    if getattr(model, "hf_quantizer", None) is None:
        raise ValueError("A part of a model with 4-bit weights cannot be saved by itself. Save the whole model.")
    if state_dict is not None:
        raise ValueError("Found state_dict; a model with 4-bit weights is saved as it is. Leave it out.")
