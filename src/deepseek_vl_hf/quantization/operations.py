"""One parameter at a time: to 4 bits, into files and out of them.

Files hold two tensors for each quantized one: `<layer>._weight_qdata` and `<layer>._weight_scale_and_zero`, of experts
`_gate_up_proj_*` and `_down_proj_*`. Packed for a CPU, the first are plain pairs of neighbouring columns, which any
processor puts into the order of its kernels; packed for CUDA they are what its kernels read.
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.quantizers_utils import get_module_from_name

from .packing import group_size_for
from .tensors import Int4CpuWeight, Int4Experts, Int4TilePackedTo4dTensor

PARTS = ("qdata", "scale_and_zero")


class Quantize(ConversionOps):
    """A parameter -> 4 bits; experts one after the other, so that little memory is needed beside them."""

    def __init__(self, hf_quantizer: Any) -> None:
        self.hf_quantizer = hf_quantizer

    def convert(self, input_dict: dict[str, Any], full_layer_name: str, **kwargs: Any) -> dict[str, torch.Tensor]:
        """As transformers calls it; see `ConversionOps.convert`."""
        weight = _only(next(iter(input_dict.values())))
        size = group_size_for(tuple(weight.shape), self.hf_quantizer.quantization_config.group_size)
        assert size is not None, "param_needs_quantization() is asked before"
        if weight.dim() == 2:
            return {full_layer_name: self._quantize(weight, size)}
        return {full_layer_name: Int4Experts.stack([self._quantize(expert, size) for expert in weight])}

    def _quantize(self, weight: torch.Tensor, group_size: int) -> torch.Tensor:
        if self.hf_quantizer.quantization_config.device == "cpu":
            return Int4CpuWeight.quantize(weight, group_size)
        # A layer that will be offloaded lies on the CPU, where weights cannot be packed for CUDA.
        return Int4TilePackedTo4dTensor.from_hp(weight.to("cuda"), [1, group_size]).to(weight.device)


class Load(ConversionOps):
    """The two tensors of a file -> a parameter."""

    def __init__(self, hf_quantizer: Any) -> None:
        self.hf_quantizer = hf_quantizer

    def convert(
        self, input_dict: dict[str, Any], full_layer_name: str, model: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """As transformers calls it; see `ConversionOps.convert`."""
        module, leaf = get_module_from_name(model, full_layer_name)
        shape = getattr(module, leaf).shape
        qdata, scale_and_zero = (_only(input_dict[name]) for name in stored_names(leaf))
        scale_and_zero = scale_and_zero.to(self.hf_quantizer.dtype)
        if len(shape) == 2:
            return {full_layer_name: self._load(qdata, scale_and_zero, shape)}
        experts = [self._load(*parts, shape[1:]) for parts in zip(qdata, scale_and_zero, strict=True)]
        return {full_layer_name: Int4Experts.stack(experts)}

    def _load(self, qdata: torch.Tensor, scale_and_zero: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        if self.hf_quantizer.quantization_config.device == "cpu":
            return Int4CpuWeight.from_plain(qdata, scale_and_zero)
        size = group_size_for(tuple(shape), self.hf_quantizer.quantization_config.group_size)
        return Int4TilePackedTo4dTensor(qdata, scale_and_zero, [1, size], shape)


def stored_names(parameter: str) -> list[str]:
    """The names in files of a quantized parameter's parts."""
    return [f"_{parameter}_{part}" for part in PARTS]


def stored_tensors(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """What stands in files for a parameter or buffer."""
    if not isinstance(tensor, Int4CpuWeight | Int4Experts | Int4TilePackedTo4dTensor):
        yield name, tensor
        return
    qdata = tensor.qdata
    if isinstance(tensor, Int4CpuWeight):
        qdata = tensor.to_plain()
    elif isinstance(tensor, Int4Experts) and tensor.device.type == "cpu":
        qdata = torch.stack([tensor[expert].to_plain() for expert in range(len(tensor))])
    module, _, parameter = name.rpartition(".")
    for part, value in zip(stored_names(parameter), (qdata, tensor.scale_and_zero), strict=True):
        yield f"{module}.{part}", value


def _only(tensors: Any) -> torch.Tensor:
    """Transformers hands over a list of one tensor, or the tensor."""
    return tensors[0] if isinstance(tensors, list) else tensors
