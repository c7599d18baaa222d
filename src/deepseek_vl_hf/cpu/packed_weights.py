"""Weights in the order in which a CPU's kernels read them.

oneDNN, which multiplies matrices for torch on a CPU, can read a weight from blocks that fit its kernels. A token's
products then run at the speed of the memory: measured 44 to 69 GB/s instead of 22 to 30 in bfloat16, and long prompts
take a tenth less. Nothing is compiled, and any cache and batch size will do.
"""

from collections.abc import Callable

import torch
from torch import nn

from ..hf.kernels import ImmovableModule, has_hooks, linear_of_onednn, onednn_has_bfloat16, pack_for_onednn

DTYPES = (torch.bfloat16, torch.float32)
# Their weights are read by others than their own forward: latent attention multiplies kv_b_proj into queries.
READ_ELSEWHERE = ("kv_b_proj",)
CANNOT_BE_SAVED = (
    "Prepacked weights can be neither saved, copied nor replaced. Do it before prepack_weights, or load the model "
    "again."
)


class PrepackedLinear(ImmovableModule):
    """A linear layer for inference whose weight is kept in oneDNN's blocks alone: [..., in] -> [..., out].

    Args:
        linear: the layer to take the place of, on the CPU.
    """

    cannot_be_saved = CANNOT_BE_SAVED

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        # An opaque tensor: no parameter and no buffer, because it can be neither moved nor cast nor saved.
        self._packed = pack_for_onednn(linear.weight.detach())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`.

        Raises:
            RuntimeError: a gradient is asked for.
            ValueError: another type or width than the weight's.
        """
        if torch.is_grad_enabled() and hidden_states.requires_grad:
            raise RuntimeError(
                "Found a gradient to be computed through prepacked weights, which are for inference. Call the model "
                "under torch.no_grad() (generate does); to train it, take it as from_pretrained gives it."
            )
        if hidden_states.dtype != self._packed.dtype or hidden_states.shape[-1] != self.in_features:
            raise ValueError(
                f"Found inputs of {hidden_states.dtype} and width {hidden_states.shape[-1]}; the weights are packed in "
                f"{self._packed.dtype} for a width of {self.in_features}. Give inputs of that type, without autocast."
            )
        return linear_of_onednn(hidden_states, self._packed, self.bias)

    def check_move(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Raises RuntimeError if a function that `to`, `half` or `cuda` applies would change the weight."""
        probe = torch.empty(0, dtype=self._packed.dtype)
        found = fn(probe)
        if (found.device, found.dtype) != (probe.device, probe.dtype):
            raise RuntimeError(
                f"Prepacked weights stay on the CPU in {probe.dtype}; found a move to {found.device} in {found.dtype}. "
                "Move the model before prepack_weights."
            )

    def extra_repr(self) -> str:
        """As `nn.Linear`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def prepack_weights(model: nn.Module) -> nn.Module:
    """Gives a model's linear layers prepacked weights, in place: faster on a CPU, for inference alone.

    Each layer is replaced as soon as its packed copy is there, so no second copy is kept. Left as they are: the experts
    of DeepSeek-VL2, which are no linear layers, weights that are read elsewhere, quantized ones, and layers with hooks.

    Args:
        model: on the CPU, in bfloat16 or float32.

    Returns:
        The same model.

    Raises:
        ValueError: it is on another device or of another type, or a single layer.
        RuntimeError: this build of torch has no oneDNN, or this processor no bfloat16 in it.
    """
    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("This build of torch has no oneDNN, whose blocks are asked for. Use the model as it is.")
    if isinstance(model, nn.Linear):
        raise ValueError("Found a single linear layer, which cannot be replaced in place; expected a model with some.")
    # A layer that stands in several places is packed once.
    modules = model.named_modules(remove_duplicate=False)
    layers = [(name, layer) for name, layer in modules if _can_be_packed(name, layer)]
    for name, layer in layers:
        _check(name, layer.weight)
    places: dict[nn.Linear, list[str]] = {}
    for name, layer in layers:
        places.setdefault(layer, []).append(name)
    del layers
    while places:
        layer, names = places.popitem()
        packed = PrepackedLinear(layer)
        for name in names:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, packed)
    return model


def _can_be_packed(name: str, layer: nn.Module) -> bool:
    plain = type(layer) is nn.Linear and type(layer.weight.data) is torch.Tensor
    return plain and not has_hooks(layer) and name.rpartition(".")[2] not in READ_ELSEWHERE


def _check(name: str, weight: torch.Tensor) -> None:
    if weight.device.type != "cpu" or weight.dtype not in DTYPES:
        raise ValueError(
            f"{name}.weight is on {weight.device} in {weight.dtype}; prepacked weights are for a CPU, in "
            f"{' or '.join(map(str, DTYPES))}. Load the model there with dtype=torch.bfloat16."
        )
    if weight.dtype == torch.bfloat16 and not onednn_has_bfloat16():
        raise RuntimeError(
            "oneDNN has no bfloat16 products on this processor. Load the model with dtype=torch.float32 to prepack it."
        )
