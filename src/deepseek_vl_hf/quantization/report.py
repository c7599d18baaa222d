"""What became of each layer of a quantized model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..models.deepseek_moe.experts import DeepseekMoeExperts
from ..models.weights import bytes_packed, has_4_bits


@dataclass(frozen=True)
class QuantizedLayer:
    """One linear layer's weight, or all experts' of one kind.

    Attributes:
        name: of the parameter.
        shape: [rows, columns], of experts [experts, rows, columns].
        group_size: how many weights share a scale and a zero; None if the layer kept its type.
        num_bytes: what the weight takes, scales and zeros included.
        unquantized_bytes: what it would take in the type of its scales.
    """

    name: str
    shape: tuple[int, ...]
    group_size: int | None
    num_bytes: int
    unquantized_bytes: int


@dataclass(frozen=True)
class QuantizationReport:
    """Which layers have 4-bit weights, and what that saves; `print` it for a table.

    Attributes:
        layers: the language model's linear layers and experts, and `lm_head`.
        other_bytes: what all other parameters take: towers, aligner, embeddings, norms.
    """

    layers: tuple[QuantizedLayer, ...]
    other_bytes: int

    @property
    def quantized(self) -> tuple[QuantizedLayer, ...]:
        """The layers with 4-bit weights."""
        return tuple(layer for layer in self.layers if layer.group_size is not None)

    @property
    def kept(self) -> tuple[QuantizedLayer, ...]:
        """The layers that kept their type: chosen so, or because no group size divides their width."""
        return tuple(layer for layer in self.layers if layer.group_size is None)

    @property
    def num_bytes(self) -> int:
        """What all parameters of the model take."""
        return sum(layer.num_bytes for layer in self.layers) + self.other_bytes

    @property
    def ratio(self) -> float:
        """What the quantized layers' weights take, as a share of what they took before."""
        before = sum(layer.unquantized_bytes for layer in self.quantized)
        return sum(layer.num_bytes for layer in self.quantized) / before if before else 1.0

    def __str__(self) -> str:
        """A table with a line for each kind of layer."""
        lines = [f"{'layers':<58} {'number':>6} {'shape':>18} {'group':>5} {'MB':>9} {'before':>9}"]
        lines += [_line(name, alike) for name, alike in self._kinds()]
        lines.append(
            f"{len(self.quantized)} layers quantized to {self.ratio:.2f} of their size; the model's parameters take "
            f"{self.num_bytes / 1e6:.0f} MB, {self.other_bytes / 1e6:.0f} of them outside this table"
        )
        return "\n".join(lines)

    def _kinds(self) -> list[tuple[str, list[QuantizedLayer]]]:
        """Layers that differ in their number alone, and their common name."""
        kinds: dict[tuple[str, tuple[int, ...], int | None], list[QuantizedLayer]] = {}
        for layer in self.layers:
            name = re.sub(r"\.\d+\.", ".*.", layer.name).removesuffix(".weight")
            kinds.setdefault((name, layer.shape, layer.group_size), []).append(layer)
        return [(name, alike) for (name, _, _), alike in kinds.items()]


def quantization_report(model: nn.Module) -> QuantizationReport:
    """Looks at a model's weights: which have 4 bits, with what groups, and what they take.

    Args:
        model: any model of this package, quantized or not.
    """
    layers = tuple(_layers(model))
    names = {layer.name for layer in layers}
    others = (parameter for name, parameter in model.named_parameters() if name not in names)
    return QuantizationReport(layers, sum(parameter.nbytes for parameter in others))


def _layers(model: nn.Module) -> Iterator[QuantizedLayer]:
    modules = dict(model.named_modules())
    whole = any("language_model" in path.split(".") for path in modules)  # else it is a language model by itself
    for path, module in modules.items():
        parts = path.split(".")
        if (whole and "language_model" not in parts and parts[-1] != "lm_head") or "lora_" in path:
            continue
        if isinstance(module, nn.Linear | DeepseekMoeExperts):
            for leaf, weight in module.named_parameters(recurse=False):
                if leaf != "bias":
                    yield _layer(f"{path}.{leaf}", weight)


def _layer(name: str, weight: Any) -> QuantizedLayer:
    before = weight.numel() * weight.element_size()
    if not has_4_bits(weight):
        return QuantizedLayer(name, tuple(weight.shape), None, before, before)
    return QuantizedLayer(name, tuple(weight.shape), weight.block_size[1], bytes_packed(weight), before)


def _line(name: str, alike: list[QuantizedLayer]) -> str:
    shape = " x ".join(map(str, alike[0].shape))
    after, before = (sum(getattr(layer, size) for layer in alike) / 1e6 for size in ("num_bytes", "unquantized_bytes"))
    return f"{name:<58} {len(alike):>6} {shape:>18} {alike[0].group_size or '-':>5} {after:>9.2f} {before:>9.2f}"
