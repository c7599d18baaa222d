"""4-bit weights as torch's CPU kernels read them, and back.

The kernels read [rows, columns] in blocks of rows, column after column, two weights in a byte. How many rows a block
has and which two weights share a byte depends on the processor, so the order is found out by packing known weights. A
weight is (value - 8) * scale + zero; a group of neighbouring columns of a row shares scale and zero.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch

from ..hf.kernels import pack_4_bits

GROUP_SIZES = (128, 64, 32)
# The kernels take no other number of rows.
ROW_MULTIPLE = 16
# How many weights are taken out of their bytes at once: they then lie in a core's cache.
BLOCK_WEIGHTS = 1 << 20


class Order(NamedTuple):
    """Where weights lie: blocks of so many rows; in a byte are neighbouring rows, or rows that are half a block apart.

    In what is left behind the last whole block they are neighbouring rows.
    """

    rows: int
    neighbours: bool


ORDERS = (Order(64, False), Order(32, False), Order(32, True))


def group_size_for(shape: tuple[int, ...], wanted: int) -> int | None:
    """The largest group size, at most the wanted one, that fits a weight [..., rows, columns]; None if none does."""
    rows, columns = shape[-2:]
    if rows % ROW_MULTIPLE:
        return None
    return next((size for size in GROUP_SIZES if size <= wanted and columns % size == 0), None)


def pack(values: torch.Tensor) -> torch.Tensor:
    """[rows, columns], 0 to 15 -> bytes in the kernels' order, [rows, columns / 2]."""
    return pack_4_bits(values.to(torch.int32))


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """What `pack` was given: [rows, columns / 2] -> [rows, columns], uint8.

    Raises:
        RuntimeError: this version of torch packs in an order that is not known.
    """
    order = _known_order()
    return torch.cat([_columns(part, neighbours, packed.dtype).T for _, part, neighbours in _parts(packed, order)])


def dequantized(packed: torch.Tensor, scale_and_zero: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Blocks of rows of a packed weight, and their weights.

    Args:
        packed: [rows, columns / 2].
        scale_and_zero: [groups, rows, 2], of the type that the weights shall have.

    Returns:
        rows as a slice, and weights [columns, those rows]: transposed, as they lie.

    Raises:
        RuntimeError: see `unpack`.
    """
    order = _known_order()
    groups = len(scale_and_zero)
    for rows, part, neighbours in _parts(packed, order):
        scale, zero = (numbers.contiguous()[:, None] for numbers in scale_and_zero[:, rows].unbind(-1))
        columns = _columns(part, neighbours, scale_and_zero.dtype).sub_(8)
        grouped = columns.unflatten(0, (groups, -1))
        torch.addcmul(zero, grouped, scale, out=grouped)  # rounded once
        yield rows, columns


@cache
def kernel_order() -> Order | None:
    """The order of this processor's kernels; None if it is not one of the known ones."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(16, (64 + 32 + ROW_MULTIPLE, 32), generator=generator, dtype=torch.uint8)
    packed = pack(values)
    for order in ORDERS:
        parts = [_columns(part, neighbours, torch.uint8).T for _, part, neighbours in _parts(packed, order)]
        if torch.equal(torch.cat(parts), values):
            return order
    return None


def _known_order() -> Order:
    order = kernel_order()
    if order is None:
        raise RuntimeError(
            f"torch {torch.__version__} packs 4-bit weights in an order that is not known here, so they can be neither "
            "taken out of it nor saved. Use another version of torch."
        )
    return order


def _parts(packed: torch.Tensor, order: Order) -> Iterator[tuple[slice, torch.Tensor, bool]]:
    """What is worked on together: rows, their bytes as [blocks, columns, rows of a block / 2], neighbours or not."""
    rows, columns = len(packed), packed.shape[1] * 2
    whole = rows // order.rows * order.rows
    step = max(BLOCK_WEIGHTS // (columns * order.rows), 1) * order.rows
    for start in range(0, whole, step):
        part = slice(start, min(start + step, whole))
        yield part, packed[part].view(-1, columns, order.rows // 2), order.neighbours
    if whole < rows:
        yield slice(whole, rows), packed[whole:].view(1, columns, -1), True


def _columns(blocks: torch.Tensor, neighbours: bool, dtype: torch.dtype) -> torch.Tensor:
    """Bytes [blocks, columns, rows of a block / 2] -> values [columns, rows]."""
    count, columns, half = blocks.shape
    shape = (count, half, 2) if neighbours else (count, 2, half)
    values = torch.empty(columns, *shape, dtype=dtype)
    first, second = values.unbind(-1 if neighbours else -2)
    blocks = blocks.transpose(0, 1)
    first.copy_(blocks & 15)
    second.copy_(blocks >> 4)
    return values.flatten(1)
