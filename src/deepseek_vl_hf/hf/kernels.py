"""torch's operations for a CPU that have no public name: oneDNN's blocked weights and 4-bit products."""

from typing import Any

import torch
from torch import nn

# What `tensor.to` becomes for a subclass.
TO_COPY = torch.ops.aten._to_copy.default


def onednn_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by itself."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_for_onednn(weight: torch.Tensor) -> torch.Tensor:
    """[out, in] -> an opaque tensor in the blocks that oneDNN's kernels read."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, 1)


def linear_of_onednn(inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[..., in] -> [..., out], with a weight of `pack_for_onednn`."""
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")


def pack_4_bits(values: torch.Tensor) -> torch.Tensor:
    """int32 [rows, columns], 0 to 15 -> bytes in the order of this processor's kernels, [rows, columns / 2]."""
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)


def multiply_4_bits(
    inputs: torch.Tensor, packed: torch.Tensor, group_size: int, scale_and_zero: torch.Tensor
) -> torch.Tensor:
    """Inputs [tokens, columns] -> [tokens, rows], with bytes of `pack_4_bits` and [groups, rows, 2]."""
    return torch.ops.aten._weight_int4pack_mm_for_cpu(inputs.contiguous(), packed, group_size, scale_and_zero)


def tensor_without_memory(cls: type, shape: torch.Size, like: torch.Tensor, device: torch.device) -> Any:
    """A tensor of a subclass that keeps its data elsewhere; torch sees shape, device and the type of `like`."""
    return torch.Tensor._make_wrapper_subclass(cls, shape, device=device, dtype=like.dtype, requires_grad=False)


class ImmovableModule(nn.Module):
    """A module whose weight is no tensor that torch could move, cast, save or copy.

    A subclass overrides `check_move`, and says in `cannot_be_saved` what to do instead.
    """

    cannot_be_saved = "This module can be neither saved nor copied."

    def check_move(self, fn: Any) -> None:
        """Raises RuntimeError if a function that `to`, `half` or `cuda` applies would change the weight."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.check_move(fn)
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(self.cannot_be_saved)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(self.cannot_be_saved)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses copies and pickles."""
        raise RuntimeError(self.cannot_be_saved)


def has_hooks(layer: nn.Module) -> bool:
    """Whether something acts around a layer's forward: hooks of torch's, or accelerate's, as of offloaded layers."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or hasattr(layer, "_hf_hook"))
