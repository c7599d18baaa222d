"""Experts in memory and in files: one tensor per layer here, one per expert there, as published."""

from collections.abc import Iterator
from typing import Any

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


def fuse_experts(experts: torch.nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets `load_state_dict` of a layer's experts read tensors per expert, as `save_pretrained` writes them.

    `from_pretrained` needs no such help, but whoever resumes training reads the files as they are, transformers'
    `Trainer` without asking whether anything fits. A file may hold some of the experts, and another one the others, so
    those that are not there keep their values.

    Args:
        experts: the layer's, with `gate_up_proj` and `down_proj`.
        state_dict: what is being loaded; it is changed in place.
        prefix: of the layer's names in it.
    """
    for name, parts in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
        parameter = getattr(experts, name)
        stored = [
            (expert, number, f"{prefix}{expert}.{part}.weight")
            for expert in range(len(parameter))
            for number, part in enumerate(parts)
        ]
        found = [(expert, number, state_dict.pop(key)) for expert, number, key in stored if key in state_dict]
        if found:
            fused = parameter.detach().clone()
            for expert, number, tensor in found:
                fused[expert].chunk(len(parts))[number].copy_(tensor)
            state_dict[f"{prefix}{name}"] = fused


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
