"""Experts in memory and in files: one tensor per layer here, one per expert there, as published."""

from collections.abc import Iterator

import torch

from ...hf.loading import Concatenate, MergeModulelist, WeightConverter

_GATE_UP, _DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"


def expert_converters() -> list[WeightConverter]:
    """What puts the experts of a file together while it is loaded, and takes them apart when it is saved."""
    return [
        WeightConverter(
            source_patterns=["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            target_patterns=_GATE_UP,
            operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter(
            source_patterns="mlp.experts.*.down_proj.weight",
            target_patterns=_DOWN,
            operations=[MergeModulelist(dim=0)],
        ),
    ]


def stored_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's tensors, as its files hold them."""
    return {
        name: shape for key, tensor in model.state_dict().items() for name, shape in _stored(key, tuple(tensor.shape))
    }


def _stored(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    if not name.endswith((_GATE_UP, _DOWN)):
        yield name, shape
        return
    experts, rows, columns = shape
    stem, _, kind = name.rpartition(".")
    parts = ("gate_proj", "up_proj") if name.endswith(_GATE_UP) else (kind,)
    for expert in range(experts):
        yield from ((f"{stem}.{expert}.{part}.weight", (rows // len(parts), columns)) for part in parts)
