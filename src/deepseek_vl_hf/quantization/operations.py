"""One parameter at a time: to 4 bits, into files and out of them.

Files hold two tensors for each quantized one: `<layer>._weight_qdata` and `<layer>._weight_scale_and_zero`, of experts
`_gate_up_proj_*` and `_down_proj_*`. Packed for a CPU, the first are plain pairs of neighboring columns, which any
processor puts into the order of its kernels; packed for CUDA they are what its kernels read.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..hf.loading import ConversionOps
from ..hf.quantizer import owner_of
from ..hf.torchao import Int4TilePackedTo4dTensor
from .packing import group_size_for
from .tensors import Int4CpuWeight, Int4Experts

PARTS = ("qdata", "scale_and_zero")
DAMAGED = "The checkpoint is damaged, or its config is another one's; download or quantize it again."


class Quantize(ConversionOps):
    """Parameters -> 4 bits; experts one after the other, so that little memory is needed beside them."""

    def __init__(self, hf_quantizer: Any) -> None:
        self.hf_quantizer = hf_quantizer

    def convert(self, input_dict: dict[str, Any], model: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """As transformers calls it; see `ConversionOps.convert`.

        Raises:
            ValueError: the checkpoint's tensor has another shape than the model's, or lies on another kind of device
                than it is packed for.
        """
        return {name: self._quantize(name, _only(weight), model) for name, weight in input_dict.items()}

    def _quantize(self, name: str, weight: torch.Tensor, model: Any) -> torch.Tensor:
        config = self.hf_quantizer.quantization_config
        _check_shape(name, weight.shape, _shape_in(model, name))
        if weight.device.type != config.device:
            raise ValueError(f"{name} is on {weight.device}, but 4-bit weights are packed for {config.device}.")
        size = group_size_for(tuple(weight.shape), config.group_size)
        assert size is not None, "param_needs_quantization() is asked before"
        if weight.dim() == 2:
            return self._pack(weight, size)
        return Int4Experts.stack([self._pack(expert, size) for expert in weight])

    def _pack(self, weight: torch.Tensor, group_size: int) -> torch.Tensor:
        if weight.device.type == "cpu":
            return Int4CpuWeight.quantize(weight, group_size)
        return Int4TilePackedTo4dTensor.from_hp(weight, [1, group_size])


class Load(ConversionOps):
    """The two tensors of a file -> a parameter."""

    def __init__(self, hf_quantizer: Any) -> None:
        self.hf_quantizer = hf_quantizer

    def convert(
        self, input_dict: dict[str, Any], full_layer_name: str, model: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """As transformers calls it; see `ConversionOps.convert`.

        Raises:
            ValueError: a tensor is of another shape or type than a quantized parameter of this size has.
        """
        names = stored_names(full_layer_name.rpartition(".")[2])
        qdata, scale_and_zero = (_only(input_dict[name]) for name in names)
        shape = _shape_in(model, full_layer_name)
        size = group_size_for(tuple(shape), self.hf_quantizer.quantization_config.group_size)
        if size is None:
            raise ValueError(f"{full_layer_name} is {list(shape)}, of which no group size makes 4 bits. {DAMAGED}")
        self._check(full_layer_name, (qdata, scale_and_zero), shape, size)
        scale_and_zero = scale_and_zero.to(self.hf_quantizer.dtype)
        if len(shape) == 2:
            return {full_layer_name: self._load(qdata, scale_and_zero, shape, size)}
        parts = zip(qdata, scale_and_zero, strict=True)
        return {full_layer_name: Int4Experts.stack([self._load(*part, shape[1:], size) for part in parts])}

    def _check(self, name: str, found: tuple[torch.Tensor, torch.Tensor], shape: torch.Size, size: int) -> None:
        qdata, scale_and_zero = found
        *experts, rows, columns = shape
        if self.hf_quantizer.quantization_config.device == "cpu":
            if qdata.dtype != torch.uint8 or not scale_and_zero.is_floating_point():
                raise ValueError(f"{name} is stored as {qdata.dtype} and {scale_and_zero.dtype}. {DAMAGED}")
            _check_shape(name, qdata.shape, (*experts, rows, columns // 2))
            _check_shape(name, scale_and_zero.shape, (*experts, columns // size, rows, 2))
        elif qdata.dtype != torch.int32 or qdata.dim() != len(experts) + 4:
            raise ValueError(f"{name} is stored as {qdata.dtype} {list(qdata.shape)}. {DAMAGED}")

    def _load(self, qdata: torch.Tensor, scale_and_zero: torch.Tensor, shape: torch.Size, size: int) -> torch.Tensor:
        if self.hf_quantizer.quantization_config.device == "cpu":
            return Int4CpuWeight.from_plain(qdata, scale_and_zero)
        return Int4TilePackedTo4dTensor(qdata, scale_and_zero, [1, size], shape)


def _shape_in(model: Any, name: str) -> torch.Size:
    module, leaf = owner_of(model, name)
    return getattr(module, leaf).shape


def _check_shape(name: str, found: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(found) != tuple(expected):
        raise ValueError(f"{name}: found a tensor of shape {list(found)}, expected {list(expected)}. {DAMAGED}")


def stored_names(parameter: str) -> list[str]:
    """The names in files of a quantized parameter's parts."""
    return [f"_{parameter}_{part}" for part in PARTS]


def stored_tensors(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """What stands in files for a parameter or buffer."""
    if not isinstance(tensor, Int4CpuWeight | Int4Experts | Int4TilePackedTo4dTensor):
        yield name, tensor
        return
    # What is packed for a CPU are bytes; CUDA's kernels read larger integers.
    qdata = tensor.to_plain() if tensor.qdata.dtype == torch.uint8 else tensor.qdata
    module, _, parameter = name.rpartition(".")
    for part, value in zip(stored_names(parameter), (qdata, tensor.scale_and_zero), strict=True):
        yield f"{module}.{part}", value


def _only(tensors: Any) -> torch.Tensor:
    """Transformers hands over a list of one tensor, or the tensor."""
    return tensors[0] if isinstance(tensors, list) else tensors
