"""What a person sees of a picture, computed with Pillow and numpy alone: 8-bit RGB, or None of what is no picture."""

from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Pixels = np.ndarray  # uint8 [height, width, 3]


def of_file(source: Any, transparency: str | None) -> Pixels | None:
    """Of a file that Pillow can read whole; None of any other."""
    try:
        image = Image.open(source)
        image.load()
    except Exception:  # whatever damaged bytes lead Pillow to
        return None
    deep = image.format in ("PNG", "PPM")  # such files have 16 bits where Pillow gives them the mode I
    with suppress(Exception):  # a damaged orientation is none
        image = ImageOps.exif_transpose(image)
    return of_image(image, transparency, deep)


def of_image(image: Image.Image, transparency: str | None, deep: bool = False) -> Pixels | None:
    """Of a Pillow image of any mode: numbers scaled by their range, transparency over white unless it is dropped."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        wide = image.mode.startswith("I;16") or (deep and image.mode == "I")
        return of_numbers(values[..., None], wide, transparency=None)
    see_through = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not see_through or transparency == "drop":
        return np.asarray(image.convert("RGB"))
    return _over_white(np.asarray(image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")))


def of_numbers(values: np.ndarray, wide: bool, transparency: str | None) -> Pixels | None:
    """Of an array [height, width, channels].

    Args:
        values: numbers of any type.
        wide: whether they are 16-bit values whatever they are.
        transparency: "drop" leaves a fourth channel out.
    """
    if values.size == 0 or values.dtype.kind not in "uif" or values.shape[-1] not in (1, 3, 4):
        return None
    low, high = float(values.min()), float(values.max())
    top = _top(values.dtype, low, high, wide)
    if top is None:
        return None
    levels = values.astype(np.float64) * (255 / top)
    eight = np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)
    if eight.shape[-1] == 4 and transparency != "drop":
        return _over_white(eight)
    return np.broadcast_to(eight[..., :3], (*eight.shape[:2], 3))


def _top(dtype: np.dtype, low: float, high: float, wide: bool) -> int | None:
    """The number that is white."""
    rounding = 1e-4 if dtype.kind == "f" else 0  # interpolated pictures leave their range by so much
    if not (np.isfinite([low, high]).all() and low >= -rounding):
        return None
    if dtype.kind == "f":
        return 1 if high <= 1 + rounding else 255 if high <= 255 + rounding * 255 else None
    if dtype == np.uint8:
        return 255
    if wide or high > 255:
        return 65535 if high <= 65535 else None
    return 255


def _over_white(rgba: np.ndarray) -> Pixels:
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return np.floor(rgba[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)


def difference(found: Pixels, expected: Pixels) -> int | None:
    """The largest difference of a value; None if the sizes differ."""
    if found.shape != expected.shape:
        return None
    return int(np.abs(found.astype(int) - expected.astype(int)).max())
