"""Attention over grids with decomposed relative positions, exact (ViTDet, arXiv 2203.16527; SAM, arXiv 2304.02643).

Scores have a bias per query and key, decomposed into a row and a column part. Whole-grid layers would need one tensor
of 12 x 4096 x 4096 scores and another one for the bias; here blocks of heads and query rows are scored one after the
other, and again for their gradients. No attention maps exist at any time, so none can be returned.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from .positions import resize_distances
from .recomputation import computed_twice

# How many scores exist at once. On a CPU so few that they stay in its cache and their memory is used again, instead of
# being asked of the system for each block, which took a third of the time; elsewhere a guess, 256 MB in bfloat16.
CPU_SCORES = 1 << 21
SCORES = 1 << 27
# Rows of queries that are scored together at least.
QUERY_BLOCK = 128
# Grids of up to so many keys, such as a window, are scored in one product that includes the bias. There a pass over the
# scores costs more than a wider product: windows of the published size take less than half as long. Whole grids do not.
LARGEST_FOLDED_GRID = 256


def relative_position_bias(
    query: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts of the attention bias: of query (r, c) for a key in row i or column j.

    The tables hold one vector per distance, from 1 - size to size - 1; the bias is the product of the *unscaled* query
    with the vector of the distance.

    Args:
        query: [batch, height * width, head width], not scaled.
        rel_pos_h: [2 * height - 1, head width]; of another grid's height it is resized.
        rel_pos_w: [2 * width - 1, head width]; likewise.
        height: rows of the grid.
        width: columns of the grid.

    Returns:
        [batch, height * width, height] and [batch, height * width, width].
    """
    grid = query.unflatten(1, (height, width))
    row_bias = torch.einsum("brcd,rid->brci", grid, _by_distance(rel_pos_h, height))
    column_bias = torch.einsum("brcd,cjd->brcj", grid, _by_distance(rel_pos_w, width))
    return row_bias.flatten(1, 2), column_bias.flatten(1, 2)


def _by_distance(table: torch.Tensor, size: int) -> torch.Tensor:
    """[2 * size - 1, head width] -> [query position, key position, head width]."""
    positions = torch.arange(size, device=table.device)
    return resize_distances(table, size)[positions[:, None] - positions[None, :] + size - 1]


def biased_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_bias: torch.Tensor,
    column_bias: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Softmax attention over a grid of keys with a bias per key row and per key column.

    Args:
        query: [batch, queries, head width].
        key: [batch, rows * columns, head width].
        value: [batch, rows * columns, head width].
        row_bias: [batch, queries, rows].
        column_bias: [batch, queries, columns].
        scale: factor of the query in the scores (not in the biases, which are given).

    Returns:
        [batch, queries, head width].
    """
    batch, queries = query.shape[:2]
    keys = key.shape[1]
    scores = CPU_SCORES if query.device.type == "cpu" else SCORES
    folded = keys <= LARGEST_FOLDED_GRID
    block = queries if folded else min(queries, max(QUERY_BLOCK, scores // max(1, batch * keys)))
    parts = [
        tensor.split(max(1, scores // (block * keys))) for tensor in (query * scale, key, value, row_bias, column_bias)
    ]
    attend: Callable[..., torch.Tensor] = _attend_folded if folded else partial(_attend_in_blocks, block=block)
    attended = [attend(*part) for part in zip(*parts, strict=True)]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


@computed_twice
def _attend_folded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_bias: torch.Tensor,
    column_bias: torch.Tensor,
) -> torch.Tensor:
    """As `biased_attention`, of a scaled query; all scores in one product."""
    folded_query = torch.cat((query, row_bias, column_bias), -1)
    return (folded_query @ _fold_places(key, row_bias.shape[-1]).transpose(1, 2)).softmax(-1) @ value


def _attend_in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_bias: torch.Tensor,
    column_bias: torch.Tensor,
    block: int,
) -> torch.Tensor:
    """As `biased_attention`, of a scaled query; `block` queries at a time, their products added to the bias."""
    keys = key.transpose(1, 2)
    split = zip(*(each.split(block, 1) for each in (query, row_bias, column_bias)), strict=True)
    blocks = [_attend_block(part, keys, value, rows, columns) for part, rows, columns in split]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)


@computed_twice
def _attend_block(
    query: torch.Tensor, keys: torch.Tensor, value: torch.Tensor, row_bias: torch.Tensor, column_bias: torch.Tensor
) -> torch.Tensor:
    """One of the blocks; `keys` are [batch, head width, keys]."""
    bias = (row_bias.unsqueeze(-1) + column_bias.unsqueeze(-2)).flatten(-2)
    return bias.baddbmm_(query, keys).softmax(-1) @ value


def _fold_places(key: torch.Tensor, rows: int) -> torch.Tensor:
    """Appends one-hot row and column of each key: their product with a query's biases adds those of the key's place."""
    columns = key.shape[1] // rows
    places = torch.arange(key.shape[1], device=key.device)
    one_hot = (functional.one_hot(places // columns, rows), functional.one_hot(places % columns, columns))
    return torch.cat((key, torch.cat(one_hot, -1).to(key.dtype).expand(len(key), -1, -1)), -1)


def to_windows(grid: torch.Tensor, size: int) -> torch.Tensor:
    """Cuts a grid into windows, zero-padded at right and bottom where it does not divide.

    Args:
        grid: [images, height, width, channels].
        size: side of a window.

    Returns:
        [images * windows, size, size, channels].
    """
    height, width = grid.shape[1:3]
    grid = functional.pad(grid, (0, 0, 0, -width % size, 0, -height % size))
    windows = grid.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # [images, rows, size, columns, size, channels]
    return windows.transpose(2, 3).flatten(0, 2)


def from_windows(windows: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Puts windows together again and drops the padding.

    Args:
        windows: [images * windows, size, size, channels].
        height: rows of the grid without padding.
        width: columns of the grid without padding.

    Returns:
        [images, height, width, channels].
    """
    size = windows.shape[1]
    rows, columns = -(-height // size), -(-width // size)
    grid = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)  # [images, rows, size, columns, size, channels]
    return grid.flatten(3, 4).flatten(1, 2)[:, :height, :width]
