"""4-bit weights as torch's CPU kernels read them, and back.

The kernels read [rows, columns] in blocks of rows, column after column, two weights in a byte. How many rows a block
has and which two weights share a byte depends on the processor, so the order is found out by packing known weights. A
weight is (value - 8) * scale + zero; a group of neighboring columns of a row shares scale and zero.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch

from ..hf.kernels import pack_4_bits

GROUP_SIZES = (128, 64, 32)
# The kernels take no other number of rows.
ROW_MULTIPLE = 16
# How many weights are multiplied with at once: fewer make products slow, more leave the shared cache.
BLOCK_WEIGHTS = 1 << 21
# How many of them are computed at once: they then lie in a core's own cache.
SLAB_WEIGHTS = 1 << 19


class Order(NamedTuple):
    """Where weights lie: blocks of so many rows; in a byte are neighboring rows, or rows that are half a block apart.

    In what is left behind the last whole block they are neighboring rows.
    """

    rows: int
    neighbors: bool


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
    return torch.cat([_columns(part, neighbors, packed.dtype).T for _, part, neighbors in _parts(packed, order)])


class Block(NamedTuple):
    """Some rows of a weight, and their weights [columns, rows]: transposed, and in the order in which they come out.

    All first weights of bytes stand before all second ones. Inputs and results, which are smaller, are sorted instead.

    Args:
        rows: which rows of the whole.
        weights: valid until the next block is asked for, which is written over it.
        blocks: how many of the kernel's blocks these are.
        neighbors: see `Order`.
    """

    rows: slice
    weights: torch.Tensor
    blocks: int
    neighbors: bool

    def sort(self, values: torch.Tensor) -> torch.Tensor:
        """[..., rows] as they come out -> [..., rows] in the order of the rows."""
        values = values.unflatten(-1, (2, self.blocks, -1))
        return (values.movedim(-3, -1) if self.neighbors else values.transpose(-3, -2)).flatten(-3)

    def unsort(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `sort`."""
        if self.neighbors:
            return values.unflatten(-1, (self.blocks, -1, 2)).movedim(-1, -3).flatten(-3)
        return values.unflatten(-1, (self.blocks, 2, -1)).transpose(-3, -2).flatten(-3)


def dequantized(packed: torch.Tensor, scale_and_zero: torch.Tensor, dtype: torch.dtype) -> Iterator[Block]:
    """The weights, block by block.

    Args:
        packed: [rows, columns / 2].
        scale_and_zero: [groups, rows, 2].
        dtype: that the weights shall have. They are computed in float32 and rounded once.

    Raises:
        RuntimeError: see `unpack`.
    """
    order = _known_order()
    columns = packed.shape[1] * 2
    memory = None
    for rows, part, neighbors in _parts(packed, order):
        if memory is None:  # the first block is the largest
            memory = torch.empty(columns * rows.stop, dtype=dtype)
        weights = memory[: columns * (rows.stop - rows.start)].view(columns, -1)
        block = Block(rows, weights, len(part), neighbors)
        _fill(block, part, scale_and_zero[:, rows].float())
        yield block


def _fill(block: Block, part: torch.Tensor, scale_and_zero: torch.Tensor) -> None:
    """Writes the weights of bytes [blocks, columns, rows of a block / 2], slab by slab of whole groups of columns.

    torch is quick with bytes and float32, and slow with bfloat16, which is therefore written last.
    """
    groups, rows, _ = scale_and_zero.shape
    scale, zero = (block.unsort(numbers)[:, None] for numbers in scale_and_zero.unbind(-1))
    pairs = part.transpose(0, 1).flatten(1)
    size = part.shape[1] // groups
    step = min(max(SLAB_WEIGHTS // (size * rows), 1), groups)
    nibbles = torch.empty(step * size, rows // 2, dtype=torch.uint8)
    memory = torch.empty(step * size, rows)
    for first in range(0, groups, step):
        some = slice(first, min(first + step, groups))
        bytes_ = pairs[some.start * size : some.stop * size]
        values, lowest = memory[: len(bytes_)], nibbles[: len(bytes_)]
        signed, halves = lowest.view(torch.int8), values.unflatten(1, (2, -1))
        torch.bitwise_and(bytes_, 15, out=lowest)
        halves[:, 0].copy_(signed.sub_(8))
        torch.bitwise_right_shift(bytes_, 4, out=lowest)
        halves[:, 1].copy_(signed.sub_(8))
        grouped = values.unflatten(0, (-1, size))
        torch.addcmul(zero[some], grouped, scale[some], out=grouped)
        block.weights[some.start * size : some.stop * size].copy_(values)


@cache
def kernel_order() -> Order | None:
    """The order of this processor's kernels; None if it is not one of the known ones."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(16, (64 + 32 + ROW_MULTIPLE, 32), generator=generator, dtype=torch.uint8)
    packed = pack(values)
    for order in ORDERS:
        parts = [_columns(part, neighbors, torch.uint8).T for _, part, neighbors in _parts(packed, order)]
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
    """What is worked on together: rows, their bytes as [blocks, columns, rows of a block / 2], neighbors or not."""
    rows, columns = len(packed), packed.shape[1] * 2
    whole = rows // order.rows * order.rows
    step = max(BLOCK_WEIGHTS // (columns * order.rows), 1) * order.rows
    for start in range(0, whole, step):
        part = slice(start, min(start + step, whole))
        yield part, packed[part].view(-1, columns, order.rows // 2), order.neighbors
    if whole < rows:
        yield slice(whole, rows), packed[whole:].view(1, columns, -1), True


def _columns(blocks: torch.Tensor, neighbors: bool, dtype: torch.dtype) -> torch.Tensor:
    """Bytes [blocks, columns, rows of a block / 2] -> values [columns, rows]."""
    count, columns, half = blocks.shape
    shape = (count, half, 2) if neighbors else (count, 2, half)
    values = torch.empty(columns, *shape, dtype=dtype)
    first, second = values.unbind(-1 if neighbors else -2)
    blocks = blocks.transpose(0, 1)
    first.copy_(blocks & 15)
    second.copy_(blocks >> 4)
    return values.flatten(1)
