"""From any Pillow mode, array or tensor to 8-bit RGB: depth, transparency."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .arrays import as_array, channels_last, to_uint8

TRANSPARENCY = ("white", "drop")
# Noted in `info` of pictures that were floats in [0, 1]: without rescaling, their pixels are in [0, 1] again.
UNIT_RANGE = "deepseek_vl_hf_unit_range"


def checked_transparency(transparency: Any) -> str:
    """The same; raises ValueError unless it is a known treatment of transparency."""
    if transparency not in TRANSPARENCY:
        raise ValueError(
            f"transparency is {transparency!r}; expected 'white', which shows what lies on transparent ground as on "
            "paper, or 'drop', which ignores transparency as the original does."
        )
    return str(transparency)


def to_rgb(image: Any, input_data_format: Any = None, transparency: str = "white") -> Image.Image:
    """Turns one picture into an 8-bit RGB Pillow image; one that is such an image already is handed back.

    Args:
        image: a Pillow image of any mode (of an animation the first frame), or a numpy array or torch tensor of shape
            [height, width], [height, width, channels] or [channels, height, width] with 1, 3 or 4 channels. Modes and
            arrays of 16 bits and of floats are brought to 8 bits as `to_uint8` says.
        input_data_format: "channels_first" or "channels_last" for arrays whose shape can be read both ways.
        transparency: "white" lays a picture with transparent places on white; "drop" leaves transparency out, as the
            original does, so that the colors show that lie hidden there. Opaque pictures are the same with both.

    Raises:
        TypeError: not a picture.
        ValueError: empty, truncated, a wrong number of channels, a shape that can be read both ways, values out of
            range, or another `transparency`.
    """
    checked_transparency(transparency)
    if not isinstance(image, Image.Image):
        image = _from_array(channels_last(_of_numbers(as_array(image)), input_data_format))
    if 0 in image.size:
        raise ValueError(f"Found an empty image of {image.width} x {image.height} pixels; expected at least 1 x 1.")
    if type(image) is Image.Image and image.mode == "RGB" and "transparency" not in image.info:
        return image  # in memory already; nothing here draws on a picture, and a copy of a large one takes long
    try:
        image = _eight_bits(image.convert("LA") if image.mode == "La" else image)
        unit = image.info.get(UNIT_RANGE)
        if transparency == "white" and image.has_transparency_data:
            image = _on_white(image)
        image = image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"An image of {image.width} x {image.height} pixels in mode {image.mode} could not be decoded: "
            f"{type(error).__name__}: {error}. Expected a complete image file; read it again from its source."
        ) from error
    if unit:
        image.info[UNIT_RANGE] = True
    return image


def rescale_factors(images: Sequence[Image.Image], do_rescale: bool, rescale_factor: float) -> list[float | None]:
    """By what each picture's 8-bit values are multiplied; None where they stay 0..255.

    Without rescaling a picture keeps the range that it came in, so one of floats in [0, 1] is divided by 255.
    """
    if do_rescale:
        return [rescale_factor] * len(images)
    return [1 / 255 if image.info.get(UNIT_RANGE) else None for image in images]


def _of_numbers(array: np.ndarray) -> np.ndarray:
    # Before the shape is looked at, which of an array of objects says nothing.
    to_uint8(array[:0])
    return array


def _from_array(array: np.ndarray) -> Image.Image:
    """[height, width, channels] -> a Pillow image of 8 bits."""
    pixels, unit = to_uint8(array)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if unit:
        image.info[UNIT_RANGE] = True
    return image


def with_known_depth(image: Image.Image) -> Image.Image:
    """The same, where the file says more of the depth than Pillow's mode: I;16 for files of 9 to 16 bits of gray."""
    bits = getattr(image, "tag_v2", {}).get(258)
    if image.mode == "I;16" and bits == (12,):
        return Image.fromarray(np.asarray(image) * 16 + np.asarray(image) // 256)
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # PNG in older releases of Pillow
        deep = Image.fromarray(np.asarray(image).astype(np.uint16))
        deep.info = dict(image.info)
        return deep
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Modes of 16 bits, 32 bits and floats as L or LA; others as they are."""
    image = with_known_depth(image)
    sixteen = image.mode.startswith("I;16")
    if not (sixteen or image.mode in ("I", "F")):
        return image
    values = np.asarray(image)
    pixels, unit = to_uint8(values, sixteen)
    gray = Image.fromarray(pixels)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    if unit:
        gray.info[UNIT_RANGE] = True
    return gray


def _on_white(image: Image.Image) -> Image.Image:
    """What a person sees on white paper; an opaque picture as it is."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # A file of 16 bits per channel. Pillow reads the upper eight, but all 16 of the color that is transparent.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    seen = image.convert("RGBA")
    if seen.getchannel("A").getextrema() == (255, 255):
        return image
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
