"""torch's operations for a CPU that have no public name: blocked weights of oneDNN and fbgemm, 4-bit products."""

import os
import platform
from typing import Any

import torch
from torch import nn

# What `tensor.to` becomes for a subclass.
TO_COPY = torch.ops.aten._to_copy.default


X86 = ("x86_64", "amd64", "i386", "i686")
# What the variables by which oneDNN is held to older instructions call those that have bfloat16.
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
ISAS_WITH_BFLOAT16 = ("DEFAULT", "ALL", "BF16", "FP16", "AMX", "AVX10")


def onednn_has_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor, by itself or by way of float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def processor_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by itself, and may: the variables of torch and oneDNN are heard."""
    if not torch.backends.mkldnn.is_available() or not onednn_has_bfloat16():
        return False
    allowed = next((os.environ[name].upper() for name in ISA_VARIABLES if os.environ.get(name)), "DEFAULT")
    if not any(isa in allowed for isa in ISAS_WITH_BFLOAT16):
        return False
    if platform.machine().lower() not in X86:
        return True  # of other processors oneDNN says it of those alone that have the instructions
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def has_fbgemm() -> bool:
    """Whether this build of torch multiplies float32 by weights kept in float16."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def pack_for_fbgemm(weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
    """float32 [out, in], and a bias in float32 -> an opaque object with the weight in float16."""
    return torch.ops.quantized.linear_prepack_fp16(weight, bias)


def linear_of_fbgemm(inputs: torch.Tensor, packed: Any) -> torch.Tensor:
    """float32 [..., in] -> [..., out], with a weight of `pack_for_fbgemm`."""
    return torch.ops.quantized.linear_dynamic_fp16(inputs, packed).detach()  # it claims to have a gradient


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
