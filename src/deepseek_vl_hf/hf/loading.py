"""A weight's way from a file into a model, where transformers has to be told about it.

transformers applies a list of conversions, looked up by model type, while it loads a checkpoint, and their reverse
while it saves one. `deepseek_vl` and `deepseek_vl_hybrid` are model types of its own classes, too, which must get no
conversions of ours. So what lies in its table is there for this package's `from_pretrained` alone.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    "check_before_opening",
    "check_files_now",
    "loading",
    "loads_strictly",
    "patterns_ignored_now",
    "set_table",
]

# Called with what `from_pretrained` got, before anything is opened.
FolderCheck = Callable[[Any, Mapping[str, Any]], None]
# Called with the files that were found, the index's `weight_map` or None, the names that are left aside on purpose, and
# whether other libraries' quantized weights may be in them.
FilesCheck = Callable[[Sequence[str], Mapping[str, Any] | None, frozenset[str], bool], None]


@dataclass(frozen=True)
class LoadingTable:
    """What one of this package's classes does with the tensors of a checkpoint.

    Attributes:
        conversions: from names in files to names in memory, with what is done to the tensors.
        ignored: regular expressions of names that are left aside on purpose.
        check_folder: looks at a folder before it is opened.
        check_files: looks at the headers of the files that are about to be read.
    """

    conversions: Sequence[WeightConverter | WeightRenaming]
    ignored: frozenset[str]
    check_folder: FolderCheck
    check_files: FilesCheck


@dataclass(frozen=True)
class _Loading:
    """A `from_pretrained` that is running."""

    model_class: type
    strict: bool


_TABLES: dict[type, LoadingTable] = {}
# Threads load different classes.
_LOADING: ContextVar[_Loading | None] = ContextVar("loading", default=None)


def set_table(model_class: type, table: LoadingTable | None) -> None:
    """Gives a class its table, or takes it away."""
    if table is None:
        _TABLES.pop(model_class, None)
    else:
        _TABLES[model_class] = table


def _table_of(model_class: type) -> LoadingTable | None:
    """A class's table; a subclass has that of the class it extends."""
    return next((_TABLES[base] for base in model_class.__mro__ if base in _TABLES), None)


@contextmanager
def loading(model_class: type, strict: bool) -> Iterator[None]:
    """While active, transformers finds the conversions of a class of this package.

    Args:
        model_class: whose `from_pretrained` runs.
        strict: whether every tensor has to have its place, and every place its tensor.
    """
    token = _LOADING.set(_Loading(model_class, strict))
    try:
        yield
    finally:
        _LOADING.reset(token)


def loads_strictly() -> bool:
    """Whether the `from_pretrained` that is running, if any, refuses checkpoints that lack tensors or have others."""
    now = _LOADING.get()
    return now is not None and now.strict


def check_before_opening(model_class: type, name_or_path: Any, arguments: Mapping[str, Any]) -> None:
    """Has a class's table look at what is about to be loaded."""
    table = _table_of(model_class)
    if table is not None:
        table.check_folder(name_or_path, arguments)


def check_files_now(
    model_class: type, files: Sequence[str], weight_map: Mapping[str, Any] | None, quantized: bool
) -> None:
    """Has a class's table look at the files that are about to be read."""
    table = _table_of(model_class)
    if table is not None:
        table.check_files(files, weight_map, table.ignored, quantized)


def patterns_ignored_now(model_class: type) -> frozenset[str]:
    """Names that a model which is being made may find in files without a warning.

    They belong to its `from_pretrained` alone. Engines that load weights by themselves read such a list as names to be
    thrown away, and a headless model inside of one with a head would then lose that model's head.
    """
    table, now = _table_of(model_class), _LOADING.get()
    is_loading = now is not None and now.model_class is model_class
    return table.ignored if table is not None and is_loading else frozenset()


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
        now = _LOADING.get()
        table = _table_of(now.model_class) if now is not None else None
        return copy.deepcopy(self.elsewhere if table is None else list(table.conversions), memo)
