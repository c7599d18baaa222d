"""Image processor of DeepSeek-VL-Hybrid: one picture, two resolutions.

picture --to_rgb--> 8-bit RGB --bicubic resize--> longer edge 1024 --pad--> 1024 x 1024
  --look-up--> high_res_pixel_values [3, 1024, 1024]
  --look-up--> floats in [0, 1] --antialiased bilinear--> 384 x 384 --normalize--> pixel_values [3, 384, 384]
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers.image_processing_utils import BatchFeature, get_size_dict
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling, SizeDict

from ...pictures.colors import rescale_factors
from ...pictures.image_processor import (
    PictureKwargs,
    Pictures,
    PillowImageProcessor,
    batch_of,
    in_parallel,
    scale_pictures,
    threads_per_picture,
)
from ...pictures.pixels import pad_to_square, padding_color, resize, scaling_tables
from ...pictures.sizes import fitted_size, square_side

INTERPOLATION_MODES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


class DeepseekVLHybridImageProcessorKwargs(PictureKwargs, total=False):  # type: ignore[call-arg]
    """Arguments beyond those that every image processor takes.

    Attributes:
        min_size: smallest edge in pixels that a resized picture may have.
        high_res_size: `height` and `width` of `high_res_pixel_values` in pixels.
        high_res_resample: Pillow's filter for the 8-bit picture.
        high_res_image_mean: per channel, of the rescaled high-resolution values.
        high_res_image_std: per channel, of the rescaled high-resolution values.
        high_res_background_color: 8-bit RGB color of the padding; None takes the truncated `high_res_image_mean`.
    """

    min_size: int
    high_res_size: dict[str, int] | SizeDict | int
    high_res_resample: PILImageResampling | int
    high_res_image_mean: float | list[float] | tuple[float, ...]
    high_res_image_std: float | list[float] | tuple[float, ...]
    high_res_background_color: list[int] | tuple[int, ...] | None


class DeepseekVLHybridImageProcessor(PillowImageProcessor):
    """Turns pictures into `pixel_values` [images, 3, 384, 384] and `high_res_pixel_values` [images, 3, 1024, 1024].

    The low resolution is made from the *float* high-resolution picture by antialiased bilinear interpolation, as in the
    original. Reducing the 8-bit picture instead differs by up to 0.9 gray levels with the bilinear filter and by up to
    26 with the bicubic one, which is transformers' default.

    Args:
        do_resize: bring the longer edge to `high_res_size`, and the square to `size`.
        size: the low-resolution square's `height` and `width` in pixels.
        high_res_size: the high-resolution square's.
        min_size: smallest edge after resizing in pixels.
        resample: interpolation from high to low resolution, bilinear or bicubic; always antialiased.
        high_res_resample: Pillow's filter for the 8-bit picture.
        do_pad: center the picture on a square.
        high_res_background_color: color of the padding, 8-bit RGB; by default the truncated `high_res_image_mean`.
        do_rescale: multiply the 8-bit values by `rescale_factor`. Without, they stay 0..255; pictures that came as
            floats in [0, 1] are in [0, 1] again.
        do_normalize: subtract the means and divide by the standard deviations. The original stores false and normalizes
            in the towers; here it is always the processor that does it.
        image_mean: per channel, low resolution.
        image_std: per channel, low resolution.
        high_res_image_mean: per channel, high resolution.
        high_res_image_std: per channel, high resolution.
        transparency: "white" lays transparent pictures on white; "drop" gives the original's pixels.

    Raises:
        TypeError, ValueError: not a picture, an unreadable picture, sizes that are not square, or another `resample`.
    """

    model_input_names = ["pixel_values", "high_res_pixel_values"]
    valid_kwargs = DeepseekVLHybridImageProcessorKwargs
    do_resize = True
    size = {"height": 384, "width": 384}
    high_res_size = {"height": 1024, "width": 1024}
    min_size = 14
    resample = PILImageResampling.BILINEAR
    high_res_resample = PILImageResampling.BICUBIC
    do_pad = True
    high_res_background_color = None
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    high_res_image_mean = tuple(OPENAI_CLIP_MEAN)
    high_res_image_std = tuple(OPENAI_CLIP_STD)

    def complete_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """See `HfImageProcessor.complete_settings`; transformers knows nothing of the high resolution's."""
        settings = super().complete_settings(settings)
        size = settings["high_res_size"]
        settings["high_res_size"] = size if isinstance(size, SizeDict) else SizeDict(**get_size_dict(size))
        for name in ("high_res_image_mean", "high_res_image_std"):
            settings[name] = tuple(settings[name]) if isinstance(settings[name], list) else settings[name]
        return settings

    def to_pixels(
        self,
        images: list[Image.Image],
        *,
        do_resize: bool,
        high_res_size: SizeDict,
        min_size: int,
        high_res_resample: int,
        do_pad: bool,
        high_res_background_color: list[int] | tuple[int, ...] | None,
        do_rescale: bool,
        rescale_factor: float,
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        """See `PillowImageProcessor.to_pixels`; the arguments are the settings that the class describes."""
        threads = threads_per_picture(len(images))

        def fit(image: Image.Image) -> np.ndarray:
            if do_resize:
                fitted = fitted_size(*image.size, square_side(high_res_size), min_size)
                image = resize(image, fitted, high_res_resample, threads)
            if do_pad:
                image = pad_to_square(image, high_res_background_color or padding_color(kwargs["high_res_image_mean"]))
            return np.asarray(image)

        factors = rescale_factors(images, do_rescale, rescale_factor)
        low, high = _two_resolutions(in_parallel(fit, images), factors, do_resize=do_resize, **kwargs)
        return batch_of({"pixel_values": low, "high_res_pixel_values": high}, return_tensors)


def _two_resolutions(
    pictures: list[np.ndarray],
    factors: list[float | None],
    *,
    do_resize: bool,
    size: SizeDict,
    resample: int,
    do_normalize: bool,
    image_mean: tuple[float, ...],
    image_std: tuple[float, ...],
    high_res_image_mean: tuple[float, ...],
    high_res_image_std: tuple[float, ...],
    **kwargs: Any,
) -> tuple[Pictures, Pictures]:
    """Each 8-bit [height, width, 3] -> float32 [3, low, low] and [3, height, width]."""
    mean, std = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (image_mean, image_std))

    def low_resolution(pixels: np.ndarray) -> np.ndarray:
        low = reduce_pixels(pixels, square_side(size), resample) if do_resize else pixels
        return (low - mean) / std if do_normalize else low

    statistics = (high_res_image_mean, high_res_image_std) if do_normalize else (None, None)
    high = scale_pictures(pictures, scaling_tables(factors, *statistics))
    # One picture after the other: torch reduces each on threads of its own.
    return [low_resolution(pixels) for pixels in scale_pictures(pictures, scaling_tables(factors))], high


def reduce_pixels(pixels: np.ndarray, side: int, resample: int) -> np.ndarray:
    """Reduces a float picture with antialiasing, corners not aligned.

    Args:
        pixels: float32 [3, height, width].
        side: of the square result, in pixels.
        resample: Pillow's name of the interpolation.

    Returns:
        float32 [3, side, side].

    Raises:
        ValueError: neither bilinear nor bicubic.
    """
    if resample not in INTERPOLATION_MODES:
        raise ValueError(
            f"resample is {resample!r}; the low resolution is interpolated from float pixels, so expected "
            "PILImageResampling.BILINEAR (the original's) or PILImageResampling.BICUBIC."
        )
    batch = torch.from_numpy(pixels)[None]
    mode = INTERPOLATION_MODES[PILImageResampling(resample)]
    return functional.interpolate(batch, (side, side), mode=mode, align_corners=False, antialias=True)[0].numpy()
