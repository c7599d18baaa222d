"""Image processor of DeepSeek-VL2: the whole picture in one tile, and enlarged or reduced in several.

picture --to_rgb--> 8-bit RGB
  --fit into 384 x 384 (bicubic, centered on gray)-->                     the view of the whole
  --fit into the best resolution, the same way; cut row by row-->        columns * rows tiles
all tiles of all pictures --look-up--> pixel_values [tiles, 3, 384, 384]; tile_grids [images, 2]
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict

from ...pictures.image_processor import (
    PictureKwargs,
    PillowImageProcessor,
    batch_of,
    in_parallel,
    scale_pictures,
    tables_of_images,
)
from ...pictures.pixels import padding_color
from ...pictures.sizes import square_side
from .tiling import CANDIDATE_RESOLUTIONS, Pair, check_candidates, tile_grid


class DeepseekVL2ImageProcessorKwargs(PictureKwargs, total=False):  # type: ignore[call-arg]
    """Arguments beyond those that every image processor takes.

    Attributes:
        tiling: whether pictures are cut into tiles; one value for all, or one per picture. A processor also takes
            "auto".
        candidate_resolutions: pairs of width and height in pixels, multiples of the tile.
        background_color: 8-bit RGB color of the padding; None takes the truncated `image_mean`.
    """

    tiling: bool | list[bool] | str
    candidate_resolutions: list[list[int]] | tuple[tuple[int, int], ...]
    background_color: list[int] | tuple[int, ...] | None


class DeepseekVL2ImageProcessor(PillowImageProcessor):
    """Turns pictures into `pixel_values` [tiles, 3, 384, 384] and `tile_grids` [images, 2].

    The tiles of all pictures lie one after the other. Of each picture the first is the view of the whole; then come
    its tiles, row by row. `tile_grids` holds the columns and rows of each picture, so it has 1 + columns * rows tiles.

    Args:
        size: `height` and `width` of a tile in pixels.
        candidate_resolutions: (width, height) pairs to choose from, in the order that decides between equals.
        tiling: whether pictures are cut into tiles, for all or for each. Without, a picture has one tile beside the
            view of the whole, with the same pixels. Whether to tile depends on the other pictures of a conversation,
            which only the processor sees: its default is "auto".
        resample: Pillow's filter.
        background_color: color of the padding, 8-bit RGB; by default the truncated `image_mean`.
        do_rescale: multiply the 8-bit values by `rescale_factor`. Without, they stay 0..255; pictures that came as
            floats in [0, 1] are in [0, 1] again.
        do_normalize: subtract the mean and divide by the standard deviation.
        image_mean: per channel.
        image_std: per channel.
        transparency: "white" lays transparent pictures on white; "drop" gives the original's pixels.

    Raises:
        TypeError, ValueError: not a picture, an unreadable or too thin one, no candidates, or others than multiples of
            the tile.
    """

    model_input_names = ["pixel_values", "tile_grids"]
    valid_kwargs = DeepseekVL2ImageProcessorKwargs
    size = {"height": 384, "width": 384}
    candidate_resolutions = CANDIDATE_RESOLUTIONS
    tiling = True
    resample = PILImageResampling.BICUBIC
    background_color = None
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    def to_pixels(
        self,
        images: list[Image.Image],
        *,
        size: SizeDict,
        candidate_resolutions: Sequence[Sequence[int]],
        tiling: bool | list[bool],
        resample: int,
        background_color: list[int] | tuple[int, ...] | None,
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        """See `PillowImageProcessor.to_pixels`; the arguments are the settings that the class describes."""
        tile = square_side(size)
        check_candidates(candidate_resolutions, tile)
        color = tuple(background_color or padding_color(kwargs["image_mean"]))
        grids: list[Pair] = [
            tile_grid(*image.size, candidate_resolutions, tile) if tiled else (1, 1)
            for image, tiled in zip(images, per_image(tiling, len(images)), strict=True)
        ]

        def tiles_of(number: int) -> list[np.ndarray]:
            return [np.asarray(view) for view in cut(images[number], grids[number], tile, resample, color)]

        tables = tables_of_images(images, **kwargs)
        tiles, tables_of_tiles = [], []
        for views, table in zip(in_parallel(tiles_of, range(len(images))), tables, strict=True):
            tiles += views
            tables_of_tiles += [table] * len(views)
        return batch_of({"pixel_values": scale_pictures(tiles, tables_of_tiles), "tile_grids": grids}, return_tensors)


def per_image(tiling: bool | list[bool], count: int) -> list[bool]:
    """One value of `tiling` per picture.

    Raises:
        ValueError: another number of values than of pictures, or "auto".
    """
    if isinstance(tiling, bool):
        return [tiling] * count
    if not isinstance(tiling, (list, tuple)) or len(tiling) != count or not all(isinstance(t, bool) for t in tiling):
        raise ValueError(
            f"tiling is {tiling!r} for {count} images; expected True, False, or one of them for each image. 'auto' is "
            "for the processor, which knows the conversations."
        )
    return list(tiling)


def cut(image: Image.Image, grid: Pair, tile: int, resample: int, color: tuple[int, ...]) -> Iterator[Image.Image]:
    """The view of the whole, then the tiles row by row.

    Args:
        image: 8-bit RGB.
        grid: columns and rows.
        tile: side of a tile in pixels.
        resample: Pillow's filter.
        color: 8-bit RGB, around the picture.

    Returns:
        1 + columns * rows pictures of `tile` x `tile` pixels.
    """
    columns, rows = grid
    yield _fit(image, tile, tile, resample, color)
    enlarged = _fit(image, columns * tile, rows * tile, resample, color)
    for top in range(0, rows * tile, tile):
        for left in range(0, columns * tile, tile):
            yield enlarged.crop((left, top, left + tile, top + tile))


def _fit(image: Image.Image, width: int, height: int, resample: int, color: tuple[int, ...]) -> Image.Image:
    scale = min(width / image.width, height / image.height)
    if round(min(image.size) * scale) < 1:
        raise ValueError(
            f"Found an image of {image.width} x {image.height} pixels, of which nothing is left when its longer edge "
            f"is brought to {max(width, height)} pixels. Cut it into pieces or pad its shorter edge."
        )
    return ImageOps.pad(image, (width, height), Image.Resampling(resample), color)
