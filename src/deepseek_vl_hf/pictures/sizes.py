"""Sizes of pictures and grids: integer arithmetic, alone.

It is the original's, to the pixel: sizes are truncated, never rounded.
"""

from collections.abc import Mapping
from typing import Any

from transformers.image_utils import SizeDict

from ..kinds import is_whole
from .settings import LARGEST_SIDE


def num_grid_tokens(image_size: int, patch_size: int) -> int:
    """Number of tokens that one image takes in the prompt: the patches of the tower's square grid.

    Args:
        image_size: side of the square image in pixels.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: the image is smaller than one patch.
    """
    side = image_size // patch_size
    if side < 1:
        raise ValueError(
            f"An image of {image_size} x {image_size} pixels holds no patch of {patch_size} x {patch_size} pixels. "
            "Use an image_size of at least one patch_size."
        )
    return side * side


def square_side(size: SizeDict) -> int:
    """The side of the square that `size` describes.

    Raises:
        ValueError: `size` has no height and width, they differ, or are no whole numbers of pixels.
    """
    if not is_whole(size.height, 1, LARGEST_SIDE) or size.height != size.width:
        raise ValueError(
            f"Found size {dict(size)}; DeepSeek-VL reads square images, so expected an equal height and width, such as "
            '{"height": 384, "width": 384}.'
        )
    return int(size.height)


def grids_of(images: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Columns and rows of each picture's tiles, from an image processor's `tile_grids` in whatever type."""
    grids = images["tile_grids"]
    return [(int(columns), int(rows)) for columns, rows in (grids.tolist() if hasattr(grids, "tolist") else grids)]


def fitted_size(width: int, height: int, side: int, min_size: int) -> tuple[int, int]:
    """Size of a `width` x `height` picture whose longer edge is brought to `side`, both in pixels.

    The quotient is truncated, as in the original's image processor; rounding would give another size for about half of
    all pictures. Neither edge falls below `min_size`.

    Returns:
        (width, height) in pixels.
    """
    longest = max(width, height)
    # The order of the operations decides which float is truncated: divide first, then multiply.
    return max(int(width / longest * side), min_size), max(int(height / longest * side), min_size)
