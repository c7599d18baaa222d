"""The tables of tensors in the form in which transformers applies them while it loads a checkpoint."""

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch

from ...hf.loading import Chunk, ConversionOps, WeightConverter, WeightRenaming
from ..layouts.rules import Drop, Rename, Rule, Split, Squeeze

_ENDING = re.compile(r"\{(kind|rest)\}$")


class RemoveLeadingDimension(ConversionOps):
    """[1, ...] -> [...].

    There is no way back here: transformers cannot tell these names from others when it turns a table round. Original
    checkpoints are written by this package's own conversion.
    """

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """See `ConversionOps.convert`.

        Raises:
            ValueError: the first dimension is not 1; transformers puts it into its report and raises a RuntimeError.
        """
        ((_, tensors),) = input_dict.items()
        tensor = tensors[0] if isinstance(tensors, list) else tensors
        if tensor.shape[:1] != (1,):
            raise ValueError(f"Expected the shape [1, ...], found {list(tensor.shape)}.")
        return {target_patterns[0]: tensor.squeeze(0)}


def weight_mapping(rules: Sequence[Rule]) -> list[WeightRenaming | WeightConverter]:
    """What `register_checkpoint_conversion_mapping` takes for a table.

    transformers renames first and then lets at most one converter act on a part of the name, so a rule that changes
    the tensor becomes a renaming to a name that does not exist and a converter from there.
    """
    mapping: list[WeightRenaming | WeightConverter] = []
    for rule in rules:
        if isinstance(rule, Split):
            mapping += _split(rule)
        elif isinstance(rule, Squeeze):
            mapping += _squeeze(rule)
        elif isinstance(rule, Rename):
            mapping.append(_renaming(rule.source, rule.target))
        elif not isinstance(rule, Drop):
            raise TypeError(f"{type(rule).__name__} rules have no counterpart in transformers' loading.")
    return mapping


def ignored_on_load(rules: Sequence[Rule]) -> list[str]:
    """Regular expressions of the names that a table drops, which need no warning when a checkpoint holds them."""
    return ["^" + _expression(rule.source) for rule in rules if isinstance(rule, Drop)]


def _renaming(source: str, target: str) -> WeightRenaming:
    return WeightRenaming("^" + _expression(source), _expression(target).replace("\\.", "."))


def _expression(pattern: str) -> str:
    """A pattern as a regular expression, without the field that ends it."""
    return re.escape(_ENDING.sub("", pattern)).replace(re.escape("{layer}"), r"(\d+)")


def _split(rule: Split) -> list[WeightRenaming | WeightConverter]:
    steps = zip(*(target.split(".") for target in rule.targets), strict=False)
    stem = "".join(f"{names[0]}." for names in takewhile(lambda names: len(set(names)) == 1, steps))
    parts = [_ENDING.sub("", target.removeprefix(stem)) for target in rule.targets]
    joint = "_".join(part.rstrip(".") for part in parts) + "."
    return [
        _renaming(rule.source, stem + joint),
        WeightConverter(joint, parts, operations=[Chunk(dim=0)]),
    ]


def _squeeze(rule: Squeeze) -> list[WeightRenaming | WeightConverter]:
    stem, _, leaf = rule.target.rpartition(".")
    part = stem.rpartition(".")[2]
    between = f"{stem}_with_leading_dimension.{leaf}"
    return [
        _renaming(rule.source, between),
        WeightConverter(
            f"{part}_with_leading_dimension.{leaf}", f"{part}.{leaf}", operations=[RemoveLeadingDimension()]
        ),
    ]
