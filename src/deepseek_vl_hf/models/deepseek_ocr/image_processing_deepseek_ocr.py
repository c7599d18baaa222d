"""Image processor of DeepSeek-OCR: the whole picture, and in the modes with tiles the picture cut into pieces.

picture --upright, to_rgb--> 8-bit RGB
  --squash into the square, or fit into it (bicubic, centered on gray)-->  the view of the whole
  --bring to the grid's pixels, whatever its proportions; cut row by row--> columns * rows tiles
--look-up--> pixel_values [images, 3, side, side], tile_pixel_values [tiles, 3, tile, tile], tile_grids [images, 2]
"""

from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling

from ...pictures.image_processor import (
    PictureKwargs,
    PillowImageProcessor,
    batch_of,
    in_parallel,
    scale_pictures,
    tables_of_images,
)
from ...pictures.pixels import padding_color
from .views import DEFAULT_MODE, Mode, Pair, mode_of, num_tiles, tile_grid


class DeepseekOCRImageProcessorKwargs(PictureKwargs, total=False):  # type: ignore[call-arg]
    """Arguments beyond those that every image processor takes.

    Attributes:
        mode: name of one of `views.MODES`.
        background_color: 8-bit RGB color of the padding; None takes the truncated `image_mean`.
    """

    mode: str
    background_color: list[int] | tuple[int, ...] | None


class DeepseekOCRImageProcessor(PillowImageProcessor):
    """Turns pictures into `pixel_values` [images, 3, side, side] and `tile_grids` [images, 2].

    `pixel_values` holds the view of the whole of each picture. In the modes with tiles, pictures that are larger than a
    tile are also cut: `tile_pixel_values` [tiles, 3, tile, tile] holds the tiles of all pictures one after the other,
    row by row of each, and `tile_grids` says how many columns and rows each has, (1, 1) where it has none. Without any
    tiles `tile_pixel_values` is left out.

    Args:
        mode: "tiny", "small", "base", "large", "gundam" or "gundam-m": how large the view of the whole and the tiles
            are (see `views.MODES`).
        resample: Pillow's filter.
        background_color: color of the padding, 8-bit RGB; by default the truncated `image_mean`.
        do_rescale: multiply the 8-bit values by `rescale_factor`. Without, they stay 0..255; pictures that came as
            floats in [0, 1] are in [0, 1] again.
        do_normalize: subtract the mean and divide by the standard deviation.
        image_mean: per channel.
        image_std: per channel.
        transparency: "white" lays transparent pictures on white; "drop" gives the original's pixels.

    Raises:
        TypeError, ValueError: not a picture, an unreadable or too thin one, or an unknown mode.
    """

    model_input_names = ["pixel_values", "tile_grids", "tile_pixel_values"]
    valid_kwargs = DeepseekOCRImageProcessorKwargs
    mode = DEFAULT_MODE
    resample = PILImageResampling.BICUBIC
    background_color = None
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> Image.Image:
        """See `PillowImageProcessor.process_image`; orientation tags are applied to opened pictures, too."""
        upright = ImageOps.exif_transpose(image) if isinstance(image, Image.Image) else image
        return super().process_image(upright, *args, **kwargs)

    def to_pixels(
        self,
        images: list[Image.Image],
        *,
        mode: str,
        resample: int,
        background_color: list[int] | tuple[int, ...] | None,
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        """See `PillowImageProcessor.to_pixels`; the arguments are the settings that the class describes."""
        chosen = mode_of(mode)
        color = tuple(background_color or padding_color(kwargs["image_mean"]))
        grids = [tile_grid(*image.size, chosen.tile) for image in images]

        def views_of(number: int) -> list[np.ndarray]:
            return [np.asarray(view) for view in cut(images[number], grids[number], chosen, resample, color)]

        tables = tables_of_images(images, **kwargs)
        wholes, tiles, tables_of_tiles = [], [], []
        for views, table in zip(in_parallel(views_of, range(len(images))), tables, strict=True):
            wholes.append(views[0])
            tiles += views[1:]
            tables_of_tiles += [table] * len(views[1:])
        data: dict[str, Any] = {"pixel_values": scale_pictures(wholes, tables), "tile_grids": grids}
        if tiles:
            data["tile_pixel_values"] = scale_pictures(tiles, tables_of_tiles)
        return batch_of(data, return_tensors)


def cut(image: Image.Image, grid: Pair, mode: Mode, resample: int, color: tuple[int, ...]) -> list[Image.Image]:
    """The view of the whole, then the tiles row by row.

    Args:
        image: 8-bit RGB.
        grid: columns and rows; (1, 1) for no tiles.
        mode: sides of both.
        resample: Pillow's filter.
        color: 8-bit RGB, around the whole.

    Raises:
        ValueError: the picture is so thin that nothing would be left of it.
    """
    views = [_whole(image, mode, Image.Resampling(resample), color)]
    if not num_tiles(*grid) or mode.tile is None:
        return views
    (columns, rows), tile = grid, mode.tile
    enlarged = image.resize((columns * tile, rows * tile), Image.Resampling(resample))
    for top in range(0, rows * tile, tile):
        for left in range(0, columns * tile, tile):
            views.append(enlarged.crop((left, top, left + tile, top + tile)))
    return views


def _whole(image: Image.Image, mode: Mode, resample: Image.Resampling, color: tuple[int, ...]) -> Image.Image:
    if mode.squashes:
        return image.resize((mode.side, mode.side), resample)
    if round(min(image.size) / max(image.size) * mode.side) < 1:
        raise ValueError(
            f"Found an image of {image.width} x {image.height} pixels, of which nothing is left when its longer edge "
            f"is brought to {mode.side} pixels. Cut it into pieces or pad its shorter edge."
        )
    return ImageOps.pad(image, (mode.side, mode.side), resample, color)
