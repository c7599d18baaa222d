"""A weight's way from a file into a model, where transformers has to be told about it.

transformers applies a list of conversions, looked up by model type, while it loads a checkpoint, and their reverse
while it saves one. `deepseek_vl` and `deepseek_vl_hybrid` are model types of its own classes, too, which must get no
conversions of ours. So what lies in its table is there for this package's `from_pretrained` alone.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    ConversionOps,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
)

__all__ = [
    "Chunk",
    "Concatenate",
    "ConversionOps",
    "ConversionsOfOurs",
    "LoadingTable",
    "MergeModulelist",
    "WeightConverter",
    "WeightRenaming",
    "loading",
    "patterns_ignored_now",
    "set_table",
]


@dataclass(frozen=True)
class LoadingTable:
    """What one of this package's classes does with the tensors of a checkpoint.

    Attributes:
        conversions: from names in files to names in memory, with what is done to the tensors.
        ignored: regular expressions of names that are left aside on purpose.
    """

    conversions: Sequence[WeightConverter | WeightRenaming]
    ignored: frozenset[str]


_TABLES: dict[type, LoadingTable] = {}
# The class whose `from_pretrained` is running; threads load different ones.
_LOADING: ContextVar[type | None] = ContextVar("loading", default=None)


def set_table(model_class: type, table: LoadingTable | None) -> None:
    """Gives a class its table, or takes it away."""
    if table is None:
        _TABLES.pop(model_class, None)
    else:
        _TABLES[model_class] = table


def _table_of(model_class: type | None) -> LoadingTable | None:
    """A class's table; a subclass has that of the class it extends."""
    bases = model_class.__mro__ if model_class is not None else ()
    return next((_TABLES[base] for base in bases if base in _TABLES), None)


@contextmanager
def loading(model_class: type) -> Iterator[None]:
    """While active, transformers finds the conversions of a class of this package."""
    token = _LOADING.set(model_class)
    try:
        yield
    finally:
        _LOADING.reset(token)


def patterns_ignored_now(model_class: type) -> frozenset[str]:
    """Names that a model which is being made may find in files without a warning.

    They belong to its `from_pretrained` alone. Engines that load weights by themselves read such a list as names to be
    thrown away, and a headless model inside of one with a head would then lose that model's head.
    """
    table = _table_of(model_class)
    return table.ignored if table is not None and _LOADING.get() is model_class else frozenset()


class ConversionsOfOurs(list[Any]):
    """What lies in transformers' table of conversions for one model type.

    transformers hands out a deep copy each time, and that is what decides: a copy for this package's classes, and for
    all others of what was there before.

    Args:
        elsewhere: what other classes get.
    """

    def __init__(self, elsewhere: Any) -> None:
        super().__init__()
        self.elsewhere = elsewhere

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        table = _table_of(_LOADING.get())
        return copy.deepcopy(self.elsewhere if table is None else list(table.conversions), memo)
