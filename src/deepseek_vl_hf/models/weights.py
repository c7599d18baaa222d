"""What a model knows of packed weights, for this processor or in 4 bits: whether they may be moved or saved."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TorchAoConfig
from transformers.utils import logging

from ..hf.kernels import ImmovableModule
from ..hf.model import LoadedWeights

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


def check_loaded(found: LoadedWeights) -> None:
    """Compares the tensors of a checkpoint with the places of a model.

    Raises:
        ValueError: tensors have another shape, or cannot be made of those in the files; or, where loading is strict,
            some are missing or left over.
    """
    checkpoint = "checkpoint" if found.source is None else f"checkpoint {found.source}"
    if found.failed:
        raise ValueError(
            f"{len(found.failed)} tensors of the model cannot be made of those in the {checkpoint}, such as "
            f"{_failure(*found.failed[0])}. Weights and config.json belong to different checkpoints, or a file is "
            "damaged; download them again."
        )
    if found.mismatched:
        name, there, here = found.mismatched[0]
        raise ValueError(
            f"{len(found.mismatched)} tensors of the {checkpoint} have another shape than config.json says, such as "
            f"{name}: found {list(there)}, expected {list(here)}. Weights and config.json belong to different "
            "checkpoints; download them again. To begin with random weights there, pass ignore_mismatched_sizes=True."
        )
    if not found.strict:
        return
    if found.missing:
        raise ValueError(
            f"The {checkpoint} lacks {len(found.missing)} tensors of the model ({_some(found.missing)}), which would "
            "be random numbers. Download it again, config.json included. If parts of the model are to begin with "
            "random weights, such as a new head, pass strict=False to from_pretrained."
        )
    if found.unexpected and not found.quantized_elsewhere:
        raise ValueError(
            f"The {checkpoint} holds {len(found.unexpected)} tensors that the model has no place for "
            f"({_some(found.unexpected)}). Weights and config.json belong to different checkpoints; download them "
            "again. To leave these tensors out, pass strict=False to from_pretrained."
        )


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def _failure(name: str, reason: str) -> str:
    """A name with the line of transformers' report that says what was raised over it."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"\w+(Error|Exception): ", line)]
    return f"{name} ({' '.join(raised[-1:] or lines[-1:]) or 'no reason was given'})"


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
