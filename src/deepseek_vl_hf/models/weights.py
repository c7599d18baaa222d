"""What a model knows of packed weights, for this processor or in 4 bits: whether they may be moved or saved."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import TorchAoConfig
from transformers.utils import logging

from ..hf.kernels import ImmovableModule

logger = logging.get_logger(__name__)


def check_quantization_config(config: Any) -> None:
    """Answers a `quantization_config` of torchao's that is not, or not well, suited to these models.

    Raises:
        ValueError: its recipe is a string such as "int4_weight_only", which transformers has given up.
    """
    recipe = config.get("quant_type") if isinstance(config, dict) else getattr(config, "quant_type", config)
    line = "quantization_config=deepseek_vl_hf.int4_config(group_size=128)"
    if isinstance(recipe, str):
        raise ValueError(f"Found {recipe!r} as the recipe of quantization_config. For 4-bit weights pass {line}.")
    if type(config) is TorchAoConfig and "Int4" in type(recipe).__name__:
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


def check_can_be_moved(model: torch.nn.Module, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Raises RuntimeError if a move or cast would change packed weights, before anything is moved."""
    for module in model.modules():
        if isinstance(module, ImmovableModule):
            module.check_move(fn)
    quantized = {(p.device, p.dtype): p for p in model.parameters() if has_4_bits(p)}
    for (device, dtype), weight in quantized.items():
        moved = fn(torch.empty(0, device=device, dtype=dtype))
        if (moved.device.type, moved.dtype) != (device.type, dtype):
            raise RuntimeError(cannot_be_moved(weight, moved.device, moved.dtype))


def check_can_be_saved(model: Any, state_dict: Any) -> None:
    """Looks for packed weights before anything is written.

    Args:
        model: what is to be saved.
        state_dict: weights that are to be saved in place of the model's; None for its own.

    Raises:
        RuntimeError: weights were packed for this processor alone.
        ValueError: 4-bit weights would be left out, or replaced ones would.
    """
    for module in model.modules():
        if isinstance(module, ImmovableModule):
            raise RuntimeError(module.cannot_be_saved)
    if not any(map(has_4_bits, model.parameters())):
        return
    if getattr(model, "hf_quantizer", None) is None:
        raise ValueError("A part of a model with 4-bit weights cannot be saved by itself. Save the whole model.")
    if state_dict is not None:
        raise ValueError("Found state_dict; a model with 4-bit weights is saved as it is. Leave it out.")
