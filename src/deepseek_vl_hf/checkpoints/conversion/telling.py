"""What becomes of a checkpoint's tensors, in words and as a table, for the person who converts it."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..tensors.plan import TensorPlan
from ..tensors.writer import TargetTensor

HEAD = ("tensors", "shape", "type", "size", "from -> to")


def words_of(plan: TensorPlan) -> Iterator[str]:
    """Why as many tensors are written as that, line by line; the numbers of the lines add up."""
    used = Counter(name for tensor in plan.tensors for name in tensor.sources)
    cut = [name for name, times in used.items() if times > 1]
    joined = [tensor for tensor in plan.tensors if len(tensor.sources) > 1]
    of_cut, of_joined = sum(used[name] for name in cut), sum(len(tensor.sources) for tensor in joined)
    dropped = sum(map(len, plan.dropped.values()))
    yield f"{len(used) + dropped} tensors are read, {len(plan.tensors)} are written:"
    yield f"  {len(used) - len(cut) - of_joined} are copied, under the names of the other layout"
    if cut:
        yield f"  {len(cut)} hold queries, keys and values in one, and are cut into {of_cut}"
    if joined:
        yield f"  {of_joined} are queries, keys or values, and are joined to {len(joined)}"
    for reason, tensors in plan.dropped.items():
        yield f"  {len(tensors)} are left out: {reason}"


@dataclass
class _Row:
    """Tensors that differ in numbers of their names alone; `kind` and `num_bytes` are empty for those left out."""

    names: str
    shape: Sequence[int]
    kind: str = ""
    count: int = 0
    num_bytes: int = 0

    def cells(self) -> tuple[str, ...]:
        shape = " x ".join(map(str, self.shape))
        return str(self.count), shape, self.kind, size_text(self.num_bytes) if self.kind else "", self.names


def table_of(plan: TensorPlan, targets: Sequence[TargetTensor]) -> list[str]:
    """A line for all tensors whose names differ in numbers alone, which are those of layers and experts.

    Args:
        plan: what becomes of each tensor.
        targets: those that are written, in their types.
    """
    rows: dict[tuple[object, ...], _Row] = {}
    for target in targets:
        names = f"{' + '.join(map(_numberless, target.planned.sources))} -> {_numberless(target.planned.name)}"
        row = _row(rows, names, target.planned.shape, target.dtype)
        row.num_bytes += target.num_bytes
    for tensor in (tensor for tensors in plan.dropped.values() for tensor in tensors):
        _row(rows, f"{_numberless(tensor.name)} -> left out", tensor.shape)
    lines = [HEAD, *(row.cells() for row in rows.values())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return [_line(cells, widths) for cells in lines]


def _row(
    rows: dict[tuple[object, ...], _Row], names: str, shape: Sequence[int], dtype: torch.dtype | None = None
) -> _Row:
    """The row of one more tensor."""
    kind = str(dtype).removeprefix("torch.") if dtype else ""
    row = rows.setdefault((names, tuple(shape), kind), _Row(names, shape, kind))
    row.count += 1
    return row


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers stand on the right of their columns; the last column is as wide as it is."""
    count, shape, kind, size, names = cells
    return f"{count:>{widths[0]}}  {shape:<{widths[1]}}  {kind:<{widths[2]}}  {size:>{widths[3]}}  {names}"


def _numberless(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def size_text(num_bytes: int) -> str:
    """A size as people read it, such as "14.7 GB"."""
    size = float(num_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 999.95:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
