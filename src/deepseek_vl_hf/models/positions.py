"""Tables of positions for grids of other sizes than the stored ones."""

import torch
from torch.nn import functional


def resize_positions(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Positions of another grid: bicubic with antialiasing, in float32.

    Args:
        table: [1, rows, columns, channels].
        height: rows that are wanted.
        width: columns that are wanted.

    Returns:
        [1, height, width, channels], the table itself if it has that size.
    """
    if table.shape[1:3] == (height, width):
        return table
    resized = functional.interpolate(
        table.permute(0, 3, 1, 2).float(), (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.permute(0, 2, 3, 1).to(table.dtype)


def resize_distances(table: torch.Tensor, size: int) -> torch.Tensor:
    """Relative positions of another grid: linear, in float32.

    Args:
        table: [2 * stored size - 1, channels], from one end of the distances to the other.
        size: rows or columns that are wanted.

    Returns:
        [2 * size - 1, channels], the table itself if it has that size.
    """
    distances = 2 * size - 1
    if len(table) == distances:
        return table
    resized = functional.interpolate(table.T[None].float(), distances, mode="linear", align_corners=False)
    return resized[0].T.to(table.dtype)
