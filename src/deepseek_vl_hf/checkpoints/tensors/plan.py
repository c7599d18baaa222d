"""Which bytes of which source tensor make up each tensor of the result, decided before anything is written."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch

from ..layouts.rules import Drop, MovingRule, Rule, Shape, find_rule
from .source import StoredTensor


@dataclass(frozen=True)
class Piece:
    """A range of bytes of a source tensor."""

    tensor: StoredTensor
    start: int
    num_bytes: int


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the result; its bytes are those of its pieces, one after the other."""

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The type that the sources have."""
        return self.pieces[0].tensor.dtype

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the source tensors."""
        return tuple(piece.tensor.name for piece in self.pieces)


@dataclass
class TensorPlan:
    """What becomes of every source tensor.

    Attributes:
        tensors: the result's tensors.
        dropped: the sources that are left out, by reason.
    """

    tensors: list[PlannedTensor] = field(default_factory=list)
    dropped: dict[str, list[StoredTensor]] = field(default_factory=dict)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor of the result."""
        return {tensor.name: tensor.shape for tensor in self.tensors}


def plan_tensors(rules: Sequence[Rule], sources: Mapping[str, StoredTensor]) -> TensorPlan:
    """Applies a table to all tensors of a checkpoint.

    Every source is used exactly once or dropped with a reason, every target is written once.

    Raises:
        ValueError: no single rule speaks of a tensor, a rule lacks one of its sources, a shape or a type does not suit
            a rule, or two rules write one target.
    """
    plan = TensorPlan()
    groups: dict[tuple[MovingRule, tuple[str, ...]], list[StoredTensor | None]] = {}
    for name, tensor in sources.items():
        rule, position, fields = find_rule(rules, name)
        if isinstance(rule, Drop):
            plan.dropped.setdefault(rule.reason, []).append(tensor)
            continue
        targets = tuple(target.format(**fields) for target in rule.targets)
        groups.setdefault((rule, targets), [None] * len(rule.sources))[position] = tensor
    seen: set[str] = set()
    for (rule, targets), members in groups.items():
        present = [tensor for tensor in members if tensor is not None]
        if len(present) < len(members):
            raise ValueError(
                f"{targets[0]!r} needs {len(members)} tensors, but only {', '.join(t.name for t in present)} is there. "
                "The checkpoint is incomplete; download it again."
            )
        for planned in _apply(rule, targets, present):
            if planned.name in seen:
                raise ValueError(
                    f"Two source tensors become {planned.name!r}. The checkpoint stores one of them twice."
                )
            seen.add(planned.name)
            plan.tensors.append(planned)
    return plan


def _apply(rule: MovingRule, targets: tuple[str, ...], sources: list[StoredTensor]) -> list[PlannedTensor]:
    names = ", ".join(repr(source.name) for source in sources)
    if len({source.dtype for source in sources}) > 1:
        types = ", ".join(str(source.dtype) for source in sources)
        raise ValueError(f"{names} have different types: {types}. Expected parts of one type.")
    try:
        shapes = rule.target_shapes([source.shape for source in sources])
    except ValueError as error:
        raise ValueError(f"The tensor {names} cannot be converted: {error}.") from error
    start, planned = 0, []
    for target, shape in zip(targets, shapes, strict=True):
        length = prod(shape) * sources[0].dtype.itemsize
        planned.append(PlannedTensor(target, shape, tuple(_cut(sources, start, length))))
        start += length
    return planned


def _cut(sources: list[StoredTensor], start: int, length: int) -> list[Piece]:
    """The pieces of the range `start`, `length` of the sources' bytes, taken one after the other."""
    pieces, offset = [], 0
    for source in sources:
        begin, end = max(start, offset), min(start + length, offset + source.num_bytes)
        if begin < end or source.num_bytes == length == 0:
            pieces.append(Piece(source, begin - offset, end - begin))
        offset += source.num_bytes
    return pieces


def as_sources(plan: TensorPlan) -> dict[str, StoredTensor]:
    """The planned tensors as if they were stored, for their names and shapes."""
    return {
        tensor.name: StoredTensor(tensor.name, tensor.dtype, tensor.shape, tensor.pieces[0].tensor.data)
        for tensor in plan.tensors
    }


def check_shapes(plan: TensorPlan, expected: Mapping[str, Shape], tied: Container[str]) -> None:
    """Compares the result's names and shapes with those of the model that the config describes.

    Args:
        plan: the result.
        expected: names and shapes of the model's tensors, as files hold them.
        tied: names that may be missing, because another tensor stands for them.

    Raises:
        ValueError: a tensor is missing, is not part of the model, has another shape, or holds no floating point.
    """
    found = plan.shapes()
    problems = [f"{name}: missing" for name in expected if name not in found and name not in tied]
    problems += [f"{name}: not in the model" for name in found if name not in expected]
    problems += [f"{t.name}: type {t.dtype}, expected numbers" for t in plan.tensors if not t.dtype.is_floating_point]
    problems += [
        f"{name}: shape {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        listed = "\n  ".join(problems[:10])
        raise ValueError(
            f"{len(problems)} tensors do not fit the model that config.json describes (the first ones follow). Weights "
            f"and config belong to different checkpoints; download them again.\n  {listed}"
        )
