"""How the tensors of an original checkpoint become those of the transformers layout.

A table is a sequence of rules. A rule names its sources and its targets by patterns: `{layer}` stands for a layer's
number, `{kind}` for weight or bias, `{rest}` for any ending; what a field matched in a source is put into the targets.

Every rule keeps the bytes: those of its sources, one tensor after the other, are those of its targets, one after the
other. Only names and shapes differ. So a conversion copies byte ranges, and a table can be read in both directions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Shape = tuple[int, ...]

_FIELDS = {"layer": r"\d+", "kind": "weight|bias", "rest": ".+"}


@dataclass(frozen=True)
class Rename:
    """One tensor under another name."""

    source: str
    target: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Patterns of the names that are read."""
        return (self.source,)

    @property
    def targets(self) -> tuple[str, ...]:
        """Patterns of the names that are written."""
        return (self.target,)

    def target_shapes(self, source_shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes of the targets, in their order."""
        return list(source_shapes)

    def inverted(self) -> "Rename":
        """The rule for the way back."""
        return Rename(self.target, self.source)


@dataclass(frozen=True)
class Squeeze(Rename):
    """One tensor under another name and without its leading dimension of size 1: [1, ...] -> [...]."""

    def target_shapes(self, source_shapes: Sequence[Shape]) -> list[Shape]:
        """See `Rename.target_shapes`.

        Raises:
            ValueError: the first dimension is not 1.
        """
        (shape,) = source_shapes
        if shape[:1] != (1,):
            raise ValueError(f"expected the shape [1, ...], found {list(shape)}")
        return [shape[1:]]

    def inverted(self) -> "Rename":
        """The rule for the way back."""
        return Unsqueeze(self.target, self.source)


@dataclass(frozen=True)
class Unsqueeze(Rename):
    """One tensor under another name and with a leading dimension of size 1: [...] -> [1, ...]."""

    def target_shapes(self, source_shapes: Sequence[Shape]) -> list[Shape]:
        """See `Rename.target_shapes`."""
        (shape,) = source_shapes
        return [(1, *shape)]

    def inverted(self) -> "Rename":
        """The rule for the way back."""
        return Squeeze(self.target, self.source)


@dataclass(frozen=True)
class Split:
    """One tensor cut into equal parts along its first dimension, such as a joint query, key and value projection."""

    source: str
    targets: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Patterns of the names that are read."""
        return (self.source,)

    def target_shapes(self, source_shapes: Sequence[Shape]) -> list[Shape]:
        """[parts * n, ...] -> parts times [n, ...].

        Raises:
            ValueError: the first dimension cannot be divided.
        """
        (shape,) = source_shapes
        parts = len(self.targets)
        if not shape or shape[0] % parts:
            raise ValueError(f"expected a first dimension divisible by {parts}, found the shape {list(shape)}")
        return [(shape[0] // parts, *shape[1:])] * parts

    def inverted(self) -> "Concatenate":
        """The rule for the way back."""
        return Concatenate(self.targets, self.source)


@dataclass(frozen=True)
class Concatenate:
    """Tensors of one shape put together along their first dimension."""

    sources: tuple[str, ...]
    target: str

    @property
    def targets(self) -> tuple[str, ...]:
        """Patterns of the names that are written."""
        return (self.target,)

    def target_shapes(self, source_shapes: Sequence[Shape]) -> list[Shape]:
        """Parts times [n, ...] -> [parts * n, ...].

        Raises:
            ValueError: the parts have different shapes or are scalars.
        """
        first = source_shapes[0]
        if not first or any(shape != first for shape in source_shapes):
            found = ", ".join(str(list(shape)) for shape in source_shapes)
            raise ValueError(f"expected parts of one shape, found {found}")
        return [(first[0] * len(source_shapes), *first[1:])]

    def inverted(self) -> Split:
        """The rule for the way back."""
        return Split(self.target, self.sources)


@dataclass(frozen=True)
class Drop:
    """A tensor that the model does not use, with the reason."""

    source: str
    reason: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Patterns of the names that are read."""
        return (self.source,)


MovingRule = Rename | Split | Concatenate
Rule = MovingRule | Drop


def invert(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The table of the way back; what was dropped stays absent."""
    return tuple(rule.inverted() for rule in rules if not isinstance(rule, Drop))


@lru_cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression with a named group for each field of the pattern."""
    expression = re.escape(pattern)
    for field, values in _FIELDS.items():
        expression = expression.replace(re.escape("{" + field + "}"), f"(?P<{field}>{values})")
    return re.compile(expression)


def find_rule(rules: Sequence[Rule], name: str) -> tuple[Rule, int, dict[str, str]]:
    """The one rule that speaks of the tensor `name`, at which of its sources it stands, and what the fields matched.

    Raises:
        ValueError: no rule speaks of it, or several do.
    """
    found = [
        (rule, position, match.groupdict())
        for rule in rules
        for position, pattern in enumerate(rule.sources)
        if (match := compile_pattern(pattern).fullmatch(name))
    ]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} rules speak of the tensor {name!r}; expected one. The checkpoint is not of the family that "
            "its config names, or it holds tensors that were added later; remove those or add a rule for them."
        )
    return found[0]
