"""The ways in which a weight can lie in a CPU's memory so that its products are fast.

* oneDNN's blocks, in bfloat16 or float32: products in that type. bfloat16 where the processor multiplies it by itself.
* fbgemm: the weight in float16, inputs and sums in float32. Every finite float16 value survives, so the product is as
  exact as in float32, at half of its memory. bfloat16 weights below 7.6e-6 lose digits (at most 3e-8).
"""

from typing import Any

import torch

from ..hf.kernels import (
    has_fbgemm,
    linear_of_fbgemm,
    linear_of_onednn,
    pack_for_fbgemm,
    pack_for_onednn,
    processor_has_bfloat16,
)

LARGEST_FLOAT16 = torch.finfo(torch.float16).max
BLOCKS, FLOAT16 = "oneDNN blocks", "float16 weights"


class PackedMatrix:
    """A weight [out, in] in one of the two ways, with its bias; called with [..., in] it gives [..., out].

    Args:
        way: `BLOCKS` or `FLOAT16`.
        weight: [out, in], on the CPU.
        bias: [out], or None.
        dtype: of the products.
    """

    def __init__(self, way: str, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        self.way, self.dtype, self.shape = way, dtype, weight.shape
        bias = None if bias is None else bias.detach().to(dtype)
        weight = weight.detach().to(dtype)
        if way == FLOAT16:
            self.num_bytes = weight.numel() * 2
            self._packed: Any = pack_for_fbgemm(weight, bias)
            self._bias = None  # packed too
        else:
            self.num_bytes = weight.numel() * weight.element_size()
            self._packed = pack_for_onednn(weight)
            self._bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out].

        Raises:
            RuntimeError: a gradient is asked for.
            ValueError: another type or width than the weight's.
        """
        if torch.is_grad_enabled() and inputs.requires_grad:
            raise RuntimeError(
                "Found a gradient to be computed through prepacked weights, which are for inference. Call the model "
                "under torch.no_grad() (generate does); to train it, take it as from_pretrained gives it."
            )
        if inputs.dtype != self.dtype or inputs.shape[-1] != self.shape[1]:
            raise ValueError(
                f"Found inputs of {inputs.dtype} and width {inputs.shape[-1]}; the weights are packed in "
                f"{self.dtype} for a width of {self.shape[1]}. Give inputs of that type, without autocast."
            )
        if self.way == FLOAT16:
            return linear_of_fbgemm(inputs, self._packed)
        return linear_of_onednn(inputs, self._packed, self._bias)


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """In what a prepacked model computes whose weights are of a type."""
    return torch.bfloat16 if dtype == torch.bfloat16 and processor_has_bfloat16() else torch.float32


def way_for(weight: torch.Tensor) -> tuple[str, str]:
    """How a weight is packed on this processor, and why not in the way that is best for its type ("" if it is)."""
    if weight.dtype == torch.float32 or computing_dtype(weight.dtype) == torch.bfloat16:
        return BLOCKS, ""
    if not has_fbgemm():
        return BLOCKS, "this build of torch has no fbgemm, so the weight takes 4 bytes a number"
    largest = max(abs(float(value)) for value in weight.detach().aminmax())
    if not largest <= LARGEST_FLOAT16:
        return BLOCKS, f"it holds {largest:g}, beyond what float16 holds, so it takes 4 bytes a number"
    return FLOAT16, ""
