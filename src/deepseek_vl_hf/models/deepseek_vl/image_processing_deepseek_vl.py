"""Image processor of DeepSeek-VL with one vision tower.

picture --to_rgb--> 8-bit RGB --bicubic resize--> longer edge 384 --pad--> 384 x 384 --look-up--> [3, 384, 384]
"""

from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict

from ...pictures.colors import rescale_factors
from ...pictures.image_processor import (
    PictureKwargs,
    PillowImageProcessor,
    batch_of,
    in_parallel,
    scale_pictures,
    threads_per_picture,
)
from ...pictures.pixels import pad_to_square, padding_color, resize, scaling_tables
from ...pictures.sizes import fitted_size, square_side


class DeepseekVLImageProcessorKwargs(PictureKwargs, total=False):  # type: ignore[call-arg]
    """Arguments beyond those that every image processor takes.

    Attributes:
        min_size: smallest edge in pixels that a resized picture may have.
        background_color: 8-bit RGB color of the padding; None takes the truncated `image_mean`.
    """

    min_size: int
    background_color: list[int] | tuple[int, ...] | None


class DeepseekVLImageProcessor(PillowImageProcessor):
    """Turns pictures into `pixel_values` [images, 3, 384, 384], float32, with the original's pixels.

    Pillow resizes and pads the 8-bit picture, as in the original; transformers' own processor rounds the size instead
    of truncating it, and is one pixel off for about half of all pictures.

    Args:
        do_resize: bring the longer edge to `size`.
        size: the square's `height` and `width` in pixels.
        min_size: smallest edge after resizing in pixels.
        resample: Pillow's filter.
        do_pad: center the picture on a square.
        background_color: color of the padding, 8-bit RGB; by default the truncated `image_mean`.
        do_rescale: multiply the 8-bit values by `rescale_factor`. Without, they stay 0..255; pictures that came as
            floats in [0, 1] are in [0, 1] again.
        do_normalize: subtract `image_mean` and divide by `image_std`. The original stores false and normalizes in the
            tower; here it is always the processor that does it.
        image_mean: per channel, of the rescaled values.
        image_std: per channel, of the rescaled values.
        transparency: "white" lays transparent pictures on white; "drop" gives the original's pixels.

    Raises:
        TypeError, ValueError: not a picture, an unreadable picture, or sizes that are not square.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = DeepseekVLImageProcessorKwargs
    do_resize = True
    size = {"height": 384, "width": 384}
    min_size = 14
    resample = PILImageResampling.BICUBIC
    do_pad = True
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
        do_resize: bool,
        size: SizeDict,
        min_size: int,
        resample: int,
        do_pad: bool,
        background_color: list[int] | tuple[int, ...] | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: tuple[float, ...],
        image_std: tuple[float, ...],
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        """See `PillowImageProcessor.to_pixels`; the arguments are the settings that the class describes."""
        factors = rescale_factors(images, do_rescale, rescale_factor)
        tables = scaling_tables(factors, *((image_mean, image_std) if do_normalize else (None, None)))
        threads = threads_per_picture(len(images))

        def fit(image: Image.Image) -> np.ndarray:
            if do_resize:
                image = resize(image, fitted_size(*image.size, square_side(size), min_size), resample, threads)
            if do_pad:
                image = pad_to_square(image, background_color or padding_color(image_mean))
            return np.asarray(image)

        pixel_values = scale_pictures(in_parallel(fit, images), tables)
        return batch_of({"pixel_values": pixel_values}, return_tensors)
