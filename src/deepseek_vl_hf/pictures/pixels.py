"""From 8-bit pictures to the numbers that a tower reads: resizing, padding, scaling.

The 8-bit image is resized by Pillow's bicubic filter, as in the original, and the padding is centered with the odd
pixel on the right or at the bottom.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

SMALLEST_STRIP = 128  # rows or columns that a thread is worth


def resize(image: Image.Image, size: tuple[int, int], resample: int, threads: int = 1) -> Image.Image:
    """Pillow's `resize`, for wide pictures on several threads with the same result.

    Pillow makes two passes, across and down, and rounds to 8 bits between them, so their order shows. Wide pictures are
    resized across first. For tall ones Pillow turns that round from version 13 on; they are left to it.

    Args:
        image: 8-bit RGB.
        size: width and height of the result in pixels, in about the picture's proportions.
        resample: Pillow's filter.
        threads: how many may work side by side.
    """
    if threads < 2 or size[0] < size[1]:
        return image.resize(size, resample)
    across = _resize_axis(image, size[0], resample, threads, by_rows=True)
    return _resize_axis(across, size[1], resample, threads, by_rows=False)


def _resize_axis(image: Image.Image, length: int, resample: int, threads: int, *, by_rows: bool) -> Image.Image:
    """Gives each row (or column) a new length. None reads from another one, so strips of them are made side by side."""
    if length == (image.width if by_rows else image.height):
        return image
    number = image.height if by_rows else image.width
    strips = max(1, min(threads, number // SMALLEST_STRIP))
    edges = [number * strip // strips for strip in range(strips + 1)]

    def resize_strip(start: int, end: int) -> Image.Image:
        strip = image.crop((0, start, image.width, end) if by_rows else (start, 0, end, image.height))
        return strip.resize((length, end - start) if by_rows else (end - start, length), resample)

    if strips == 1:
        return resize_strip(0, number)
    whole = Image.new(image.mode, (length, number) if by_rows else (number, length))
    with ThreadPoolExecutor(strips) as pool:
        for start, strip in zip(edges, pool.map(resize_strip, edges[:-1], edges[1:]), strict=False):
            whole.paste(strip, (0, start) if by_rows else (start, 0))
    return whole


def padding_color(mean: Sequence[float] | float) -> tuple[int, ...]:
    """The 8-bit RGB color behind a padded picture: the normalization mean, truncated (0.5 gives 127)."""
    return tuple(int(channel * 255) for channel in np.broadcast_to(np.asarray(mean, np.float64), (3,)).tolist())


def pad_to_square(image: Image.Image, color: Sequence[int]) -> Image.Image:
    """Centers an RGB image on a square of its longer edge, filled with the 8-bit `color`."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(color))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def scaling_table(
    rescale_factor: float | None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> np.ndarray:
    """What each of the 256 pixel values becomes, per channel.

    A pixel has 256 values, so scaling and normalization are one look-up instead of three passes over float images. The
    entries are computed in the order of the original: value times factor in float64, rounded to float32, then
    `(x - mean) / std` in float32.

    Args:
        rescale_factor: factor of the 8-bit value; None leaves 0..255.
        mean: per channel or one for all; None skips the normalization.
        std: per channel or one for all, given together with `mean`.

    Returns:
        float32 [channels or 1, 256].
    """
    values = np.arange(256, dtype=np.float64)
    table = (values if rescale_factor is None else values * rescale_factor).astype(np.float32)[None]
    if mean is None or std is None:
        return table
    return (table - np.asarray(mean, np.float32).reshape(-1, 1)) / np.asarray(std, np.float32).reshape(-1, 1)


def scaling_tables(
    rescale_factors: Sequence[float | None],
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> list[np.ndarray]:
    """The `scaling_table` of each factor."""
    tables = {factor: scaling_table(factor, mean, std) for factor in {*rescale_factors}}
    return [tables[factor] for factor in rescale_factors]


def scale_pixels(pixels: np.ndarray, table: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Looks 8-bit pixels up in a `scaling_table`.

    Args:
        pixels: uint8 [height, width, channels], as Pillow gives them.
        table: float32 [channels or 1, 256].
        out: float32 [channels, height, width] to write to; None allocates it.

    Returns:
        float32 [channels, height, width], contiguous.
    """
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    scaled = np.empty(planes.shape, np.float32) if out is None else out
    for row, plane, target in zip(np.broadcast_to(table, (len(planes), 256)), planes, scaled, strict=True):
        # 8 bits are always within the table; "clip" is the mode that writes to `out` without a buffer.
        np.take(row, plane, out=target, mode="clip")
    return scaled
