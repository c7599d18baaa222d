"""The classes of 4-bit weights, on top of torchao's. Only modules that quantize or load them import this one.

A linear layer on a CPU has an `Int4CpuWeight`, on CUDA torchao's own `Int4TilePackedTo4dTensor`. Experts, three
dimensions in one parameter, have an `Int4Experts`: weights of either class, one after the other.
"""

from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn import functional

from ..hf.kernels import TO_COPY, multiply_4_bits, onednn_has_bfloat16, tensor_without_memory
from ..hf.torchao import Int4OpaqueTensor, Int4TilePackedTo4dTensor, TorchAOBaseTensor
from ..models.weights import cannot_be_moved
from .packing import dequantized, kernel_order, pack, unpack

# From here on it is faster to take the weights out of their bytes and to multiply as usual (2 CPU cores, bfloat16):
# in bfloat16 where oneDNN has such products, else in float32.
MANY_TOKENS = 96
MANY_TOKENS_IN_FLOAT32 = 64
# For weights in float16 and float32, for which torch's kernel is a plain loop.
MANY_TOKENS_OF_OTHER_TYPES = 4

ONE_BY_ONE = (
    "4-bit experts are multiplied one by one; there are no grouped or batched products of them. Leave "
    "experts_implementation out, or pass experts_implementation={'text_config': 'by_device'}."
)


class Int4CpuWeight(Int4OpaqueTensor):
    """A weight [rows, columns] on the CPU: few tokens go through torch's 4-bit kernel, many through plain products.

    Gradients pass through it to the inputs, so adapters can be trained on top; it gets none itself.
    """

    @classmethod
    def quantize(cls, weight: torch.Tensor, group_size: int) -> "Int4CpuWeight":
        """[rows, columns] -> 4 bits, with scales and zeros of the weight's type."""
        found = Int4OpaqueTensor.from_hp(weight, [1, group_size])
        return cls(found.qdata, found.scale_and_zero, found.block_size, found.shape)

    @classmethod
    def from_plain(cls, values: torch.Tensor, scale_and_zero: torch.Tensor) -> "Int4CpuWeight":
        """The inverse of `to_plain`, on any processor."""
        rows, columns = values.shape[0], values.shape[1] * 2
        packed = pack(torch.stack([values & 15, values >> 4], -1).flatten(1))
        return cls(packed, scale_and_zero, [1, columns // len(scale_and_zero)], torch.Size([rows, columns]))

    def to_plain(self) -> torch.Tensor:
        """Bytes of neighboring columns, [rows, columns / 2], the first in the lower half: alike on all processors."""
        values = unpack(self.qdata)
        return values[:, ::2] | values[:, 1::2] << 4

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles plain pairs, which another processor can read."""
        return weight_from_plain, (self.to_plain(), self.scale_and_zero, isinstance(self, nn.Parameter))


class Int4Experts(TorchAOBaseTensor):
    """The weights of all experts of a layer, [experts, rows, columns]; `weights[expert]` is one of them.

    Args:
        qdata: the experts' bytes, one after the other.
        scale_and_zero: [experts, groups, rows, 2].
        block_size: of one expert, [1, group size].
        shape: [experts, rows, columns].
    """

    tensor_data_names = ["qdata", "scale_and_zero"]
    tensor_attribute_names = ["block_size", "shape"]

    def __new__(cls, qdata: Any, scale_and_zero: Any, block_size: list[int], shape: torch.Size) -> "Int4Experts":
        """The tensor as torch sees it: shape, device and type, without memory of its own."""
        return tensor_without_memory(cls, shape, like=scale_and_zero, device=qdata.device)

    def __init__(
        self, qdata: torch.Tensor, scale_and_zero: torch.Tensor, block_size: list[int], shape: torch.Size
    ) -> None:
        super().__init__()
        self.qdata, self.scale_and_zero, self.block_size = qdata, scale_and_zero, block_size

    @classmethod
    def stack(cls, experts: list[Any]) -> "Int4Experts":
        """Of weights of the same class, shape and group size."""
        shape = torch.Size([len(experts), *experts[0].shape])
        bytes_, scales = ([getattr(expert, name) for expert in experts] for name in cls.tensor_data_names)
        return cls(torch.stack(bytes_), torch.stack(scales), experts[0].block_size, shape)

    def __getitem__(self, expert: int) -> Any:
        """One expert's weight [rows, columns], which shares memory.

        Raises:
            TypeError: for several at once, as implementations other than this package's ask for them.
        """
        if not isinstance(expert, int):
            raise TypeError(ONE_BY_ONE)
        kind = Int4CpuWeight if self.qdata.dtype == torch.uint8 else Int4TilePackedTo4dTensor
        return kind(self.qdata[expert], self.scale_and_zero[expert], self.block_size, self.shape[1:])

    def to_plain(self) -> torch.Tensor:
        """Of experts on a CPU: see `Int4CpuWeight.to_plain`."""
        return torch.stack([self[expert].to_plain() for expert in range(len(self))])

    def __reduce_ex__(self, protocol: Any) -> Any:
        """See `Int4CpuWeight.__reduce_ex__`."""
        if self.qdata.dtype != torch.uint8:
            return super().__reduce_ex__(protocol)
        return weight_from_plain, (self.to_plain(), self.scale_and_zero, isinstance(self, nn.Parameter))


def weight_from_plain(values: torch.Tensor, scale_and_zero: torch.Tensor, is_parameter: bool) -> torch.Tensor:
    """Undoes pickling, for a weight or for experts."""
    if values.dim() == 2:
        weight: torch.Tensor = Int4CpuWeight.from_plain(values, scale_and_zero)
    else:
        experts = zip(values, scale_and_zero, strict=True)
        weight = Int4Experts.stack([Int4CpuWeight.from_plain(*expert) for expert in experts])
    return nn.Parameter(weight, requires_grad=False) if is_parameter else weight


# torch.load refuses what it does not know.
torch.serialization.add_safe_globals([weight_from_plain])


class ThroughInt4(torch.autograd.Function):
    """inputs [tokens, columns] -> [tokens, rows], and the gradient of the inputs."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: Int4CpuWeight) -> torch.Tensor:
        """One of two ways, by the number of tokens."""
        ctx.packed, ctx.scale_and_zero = weight.qdata, weight.scale_and_zero
        return _multiply(inputs, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The weight has none."""
        dtype = product_dtype(gradient.dtype)
        result = torch.zeros(len(gradient), ctx.packed.shape[1] * 2, dtype=torch.float32)
        for block in dequantized(ctx.packed, ctx.scale_and_zero, dtype):
            result += block.unsort(gradient[:, block.rows].to(dtype)) @ block.weights.T
        return result.to(gradient.dtype), None


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which type weights are multiplied that were taken out of their bytes.

    Without oneDNN's help bfloat16 can take a hundred times as long as float32; float16 is no faster than float32.
    """
    return dtype if dtype == torch.bfloat16 and onednn_has_bfloat16() else torch.float32


def many_tokens(dtype: torch.dtype) -> int:
    """From how many tokens on weights are taken out of their bytes."""
    if dtype != torch.bfloat16:
        return MANY_TOKENS_OF_OTHER_TYPES
    return MANY_TOKENS if onednn_has_bfloat16() else MANY_TOKENS_IN_FLOAT32


def _multiply(inputs: torch.Tensor, weight: Int4CpuWeight) -> torch.Tensor:
    """Inputs [tokens, columns] -> [tokens, rows]."""
    few = torch.compiler.is_compiling() or len(inputs) < many_tokens(inputs.dtype)
    if few or kernel_order() is None:
        return multiply_4_bits(inputs, weight.qdata, weight.block_size[1], weight.scale_and_zero)
    dtype = product_dtype(inputs.dtype)
    same, result = inputs.to(dtype), inputs.new_empty(len(inputs), weight.shape[0])
    for block in dequantized(weight.qdata, weight.scale_and_zero, dtype):
        result[:, block.rows] = block.sort(same @ block.weights)
    return result


@Int4CpuWeight.implements(torch.ops.aten.linear.default)
@Int4CpuWeight.implements_torch_function(functional.linear)
def _linear(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    return _linear_layer(*args, **kwargs)


def _linear_layer(input: torch.Tensor, weight: Int4CpuWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """As `torch.nn.functional.linear`, whose argument names these are."""
    tokens = input.reshape(-1, input.shape[-1])
    if torch.is_autocast_enabled("cpu"):
        tokens = tokens.to(weight.dtype)
    if tokens.dtype != weight.dtype:
        raise TypeError(
            f"Found inputs in {tokens.dtype} and a 4-bit weight whose scales are in {weight.dtype}; expected one type. "
            f"Cast the inputs to {weight.dtype}."
        )
    needs_gradient = torch.is_grad_enabled() and input.requires_grad
    result = ThroughInt4.apply(tokens, weight) if needs_gradient else _multiply(tokens, weight)
    result = result.view(*input.shape[:-1], result.shape[-1])
    return result if bias is None else result + bias


@Int4Experts.implements(torch.ops.aten.transpose.int)
@Int4Experts.implements(torch.ops.aten.permute.default)
def _all_at_once(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    """Refuses to turn all experts, with which grouped products begin."""
    raise TypeError(ONE_BY_ONE)


@Int4CpuWeight.implements(TO_COPY)
@Int4Experts.implements(TO_COPY)
def _to_copy(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    weight = args[0]
    device, dtype = kwargs.get("device") or weight.device, kwargs.get("dtype") or weight.dtype
    if torch.device(device).type != weight.device.type or dtype != weight.dtype:
        raise RuntimeError(cannot_be_moved(weight, device, dtype))
    return weight.clone()
