"""Checks of DeepSeek-OCR's image inputs."""

from dataclasses import dataclass
from typing import Any

import torch

from ..checks import check_none_missing
from .views import GRANULE, NO_TILES, Pair, num_image_tokens, num_tiles

# pixel_values, tile_grids, tile_pixel_values
ImageInputs = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


@dataclass(frozen=True)
class CheckedImages:
    """Image inputs that fit together.

    Attributes:
        pixel_values: [images, 3, side, side].
        grids: columns and rows of each image.
        tile_pixel_values: [tiles, 3, tile, tile]; None where no image has tiles.
    """

    pixel_values: torch.Tensor
    grids: list[Pair]
    tile_pixel_values: torch.Tensor | None

    def lengths(self) -> list[int]:
        """Tokens of each image."""
        tile = None if self.tile_pixel_values is None else self.tile_pixel_values.shape[-1]
        return [num_image_tokens(grid, self.pixel_values.shape[-1], tile) for grid in self.grids]


def checked_images(pixel_values: Any, tile_grids: Any, tile_pixel_values: Any) -> CheckedImages | None:
    """The image inputs, checked; None if there are none.

    Raises:
        TypeError, ValueError: an input is missing, of another shape, or there are other numbers of images or tiles than
            the grids say.
    """
    check_none_missing({"pixel_values": pixel_values, "tile_grids": tile_grids})
    if pixel_values is None:
        if tile_pixel_values is not None:
            raise ValueError("Found tile_pixel_values alone; pass pixel_values and tile_grids as well.")
        return None
    _check_views(pixel_values, "pixel_values")
    grids = _pairs(tile_grids)
    if len(grids) != len(pixel_values):
        raise ValueError(
            f"pixel_values holds {len(pixel_values)} images, tile_grids {len(grids)}; expected one pair for each image."
        )
    expected = sum(num_tiles(*grid) for grid in grids)
    if tile_pixel_values is not None and len(tile_pixel_values):
        _check_views(tile_pixel_values, "tile_pixel_values")
    elif not expected:
        tile_pixel_values = None
    found = 0 if tile_pixel_values is None else len(tile_pixel_values)
    if expected != found:
        raise ValueError(
            f"tile_pixel_values holds {found} tiles, but tile_grids {grids} describe {expected}: columns * rows for "
            f"each image, none for {NO_TILES}. Pass both as the processor gives them."
        )
    return CheckedImages(pixel_values, grids, tile_pixel_values)


def _check_views(pixels: Any, name: str) -> None:
    if not isinstance(pixels, torch.Tensor):
        raise TypeError(f"{name} is a {type(pixels).__name__}; expected a tensor, as the processor gives it.")
    if pixels.shape[:1] == (0,):
        raise ValueError(f"{name} holds no image. Leave it out for text alone.")
    shape = tuple(pixels.shape)
    square = len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3]
    if not square or shape[2] < GRANULE or shape[2] % GRANULE:
        raise ValueError(
            f"{name} has the shape {list(shape)}; expected [images, 3, side, side] with a side that is a multiple of "
            f"{GRANULE}. Use the image processor that belongs to this checkpoint."
        )


def _pairs(tile_grids: Any) -> list[Pair]:
    shape = list(torch.as_tensor(tile_grids).shape)
    if len(shape) != 2 or shape[1] != 2:
        raise ValueError(f"tile_grids has the shape {shape}; expected [images, 2], columns and rows of each image.")
    grids = [(int(columns), int(rows)) for columns, rows in torch.as_tensor(tile_grids).tolist()]
    if any(min(grid) < 1 for grid in grids):
        raise ValueError(f"tile_grids is {grids}; expected at least one column and one row for each image.")
    return grids
