"""How the tensors of an original checkpoint become those of the transformers layout.

A table is a sequence of rules. A rule names its source and its targets by patterns: `{layer}` stands for a layer's
number, `{kind}` for weight or bias, `{rest}` for any ending; what a field matched in the source is put into the
targets. Rules are data, so that a table can be checked, listed and read in both directions.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

_FIELDS = {"layer": r"\d+", "kind": "weight|bias", "rest": ".+"}


@dataclass(frozen=True)
class Rename:
    """One tensor under another name."""

    source: str
    target: str

    @property
    def targets(self) -> tuple[str, ...]:
        """Patterns of the names that are written."""
        return (self.target,)

    def apply(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors for `targets`, in their order."""
        return [tensor]


@dataclass(frozen=True)
class Squeeze(Rename):
    """One tensor under another name and without its leading dimension of size 1."""

    def apply(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """[1, ...] -> [...].

        Raises:
            ValueError: the first dimension is not 1.
        """
        if tensor.ndim == 0 or tensor.shape[0] != 1:
            raise ValueError(f"expected the shape [1, ...], found {list(tensor.shape)}")
        return [tensor[0]]


@dataclass(frozen=True)
class Split:
    """One tensor cut into equal parts along its first dimension, such as a joint query, key and value projection."""

    source: str
    targets: tuple[str, ...]

    def apply(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """[parts * n, ...] -> parts times [n, ...].

        Raises:
            ValueError: the first dimension cannot be divided.
        """
        parts = len(self.targets)
        if tensor.ndim == 0 or tensor.shape[0] % parts:
            raise ValueError(f"expected a first dimension divisible by {parts}, found the shape {list(tensor.shape)}")
        return [part.clone() for part in tensor.chunk(parts)]  # each part alone, not a view that keeps all alive


@dataclass(frozen=True)
class Drop:
    """A tensor that the model does not use, with the reason."""

    source: str
    reason: str


Rule = Rename | Squeeze | Split | Drop


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    expression = re.escape(pattern)
    for field, values in _FIELDS.items():
        expression = expression.replace(re.escape("{" + field + "}"), f"(?P<{field}>{values})")
    return re.compile(expression)


def find_rule(rules: Sequence[Rule], name: str) -> tuple[Rule, dict[str, str]]:
    """The one rule that speaks of the tensor `name`, and what its fields matched.

    Raises:
        ValueError: no rule speaks of it, or several do.
    """
    found = [(rule, match) for rule in rules if (match := _compiled(rule.source).fullmatch(name))]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} rules speak of the tensor {name!r}; expected one. The checkpoint is not of the family that "
            "its config names, or it holds tensors that were added later; remove those or add a rule for them."
        )
    rule, match = found[0]
    return rule, match.groupdict()


def convert_tensor(rules: Sequence[Rule], name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields what one source tensor becomes, as (name, tensor); nothing for a dropped one.

    Raises:
        ValueError: no single rule speaks of it, or its shape does not suit the rule.
    """
    rule, fields = find_rule(rules, name)
    if isinstance(rule, Drop):
        return
    try:
        tensors = rule.apply(tensor)
    except ValueError as error:
        raise ValueError(f"The tensor {name!r} cannot be converted: {error}.") from error
    for target, converted in zip(rule.targets, tensors, strict=True):
        yield target.format(**fields), converted
