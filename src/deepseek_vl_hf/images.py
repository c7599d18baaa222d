"""From a picture in any form to 8-bit pixels of the size a tower reads.

Size arithmetic, array conversion and padding: pure functions over integers, Pillow images and numpy arrays. Nothing
here knows a config, a tokenizer or a model.

The arithmetic is the original's, to the pixel: sizes are truncated (never rounded), the 8-bit image is resized by
Pillow's bicubic filter, and the padding is centred with the odd pixel on the right or at the bottom.
"""

import base64
import os
import reprlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_utils import SizeDict, load_image

SUPPORTED_CHANNELS = (1, 3, 4)
ROUNDING = 1e-4
SMALLEST_STRIP = 128  # rows or columns that a thread is worth
# How long a server may be silent before a picture counts as unreachable; without a limit it is waited for for ever.
SECONDS_FOR_A_URL = 20.0


def num_image_tokens(image_size: int, patch_size: int) -> int:
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
        ValueError: `size` has no height and width, or they differ.
    """
    if not size.height or size.height != size.width:
        raise ValueError(
            f"Found size {dict(size)}; DeepSeek-VL reads square images, so expected an equal height and width, such as "
            '{"height": 384, "width": 384}.'
        )
    return int(size.height)


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
    """The 8-bit RGB colour behind a padded picture: the normalisation mean, truncated (0.5 gives 127)."""
    return tuple(int(channel * 255) for channel in np.broadcast_to(np.asarray(mean, np.float64), (3,)).tolist())


def pad_to_square(image: Image.Image, color: Sequence[int]) -> Image.Image:
    """Centres an RGB image on a square of its longer edge, filled with the 8-bit `color`."""
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

    A pixel has 256 values, so scaling and normalisation are one look-up instead of three passes over float images. The
    entries are computed in the order of the original: value times factor in float64, rounded to float32, then
    `(x - mean) / std` in float32.

    Args:
        rescale_factor: factor of the 8-bit value; None leaves 0..255.
        mean: per channel or one for all; None skips the normalisation.
        std: per channel or one for all, given together with `mean`.

    Returns:
        float32 [channels or 1, 256].
    """
    values = np.arange(256, dtype=np.float64)
    table = (values if rescale_factor is None else values * rescale_factor).astype(np.float32)[None]
    if mean is None or std is None:
        return table
    return (table - np.asarray(mean, np.float32).reshape(-1, 1)) / np.asarray(std, np.float32).reshape(-1, 1)


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


def flatten_pictures(images: Any) -> list[Any]:
    """Pictures in any nesting of lists as one list, in order; a four-dimensional array is a list of pictures."""
    if isinstance(images, (list, tuple)):
        return [picture for group in images for picture in flatten_pictures(group)]
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def open_images(pictures: Sequence[Any], input_data_format: Any = None) -> list[Image.Image]:
    """Reads and converts pictures for which errors shall say which one it was.

    Raises:
        TypeError, ValueError: as `open_image` and `to_rgb`, with the picture's number in front.
    """
    opened = []
    for number, picture in enumerate(pictures):
        try:
            opened.append(to_rgb(open_image(picture), input_data_format))
        except (TypeError, ValueError) as error:
            raise type(error)(f"Image {number} of {len(pictures)}: {error}") from error
    return opened


def open_image(source: Any) -> Any:
    """Reads a path, an http(s) URL, a `data:` URI or base64 text; anything else is handed back as it is.

    transformers' `load_image` does the reading, so orientation tags (EXIF) are applied, and Pillow's limit against
    decompression bombs stays in force.

    Raises:
        ValueError: there is no readable image, with the (shortened) source in the message.
    """
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str):
        return source
    # os.path, because pathlib raises for texts that are too long to be a path.
    is_file = os.path.isfile(source)  # noqa: PTH113
    if not (source.startswith(("http://", "https://", "data:")) or is_file or _is_base64(source)):
        raise ValueError(
            f"There is no file {_shorten(source)}. Expected a path to an image file, an http(s) URL, a data: URI or "
            "base64 text."
        )
    try:
        return load_image(source, timeout=SECONDS_FOR_A_URL)
    except Exception as error:  # whatever the reader, the network client or a damaged file comes up with
        reason = _shorten(str(error).replace(source, "..."))
        raise ValueError(
            f"No image could be read from {_shorten(source)}: {type(error).__name__}: {reason}. Expected a complete "
            "image that Pillow can open."
        ) from error


def _is_base64(text: str) -> bool:
    try:
        # Line breaks are usual in base64 text, and short words would pass by chance.
        return len(text) > 64 and bool(base64.b64decode("".join(text.split()), validate=True))
    except ValueError:
        return False


def to_rgb(image: Any, input_data_format: Any = None) -> Image.Image:
    """Turns one picture into an 8-bit RGB Pillow image; one that is such an image already is handed back.

    Args:
        image: a Pillow image of any mode (converted as Pillow does: the first frame of an animation, alpha dropped), or
            a numpy array or torch tensor of shape [height, width], [height, width, channels] or
            [channels, height, width] with 1, 3 or 4 channels, either integers in 0..255 or floats in [0, 1]; one
            channel may also hold 16-bit values.
        input_data_format: "channels_first" or "channels_last" for arrays whose shape can be read both ways.

    Raises:
        TypeError: not a picture.
        ValueError: empty, truncated, a wrong number of channels, a shape that can be read both ways, or values out of
            range.
    """
    if not isinstance(image, Image.Image):
        image = _image_from_array(image, input_data_format)
    if 0 in image.size:
        raise ValueError(f"Found an empty image of {image.width} x {image.height} pixels; expected at least 1 x 1.")
    if type(image) is Image.Image and image.mode == "RGB":
        return image  # in memory already; nothing here draws on a picture, and a copy of a large one takes long
    try:
        return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"An image of {image.width} x {image.height} pixels in mode {image.mode} could not be decoded: "
            f"{type(error).__name__}: {error}. Expected a complete image file; read it again from its source."
        ) from error


def _image_from_array(image: Any, input_data_format: Any) -> Image.Image:
    if hasattr(image, "detach"):  # a torch tensor, possibly on a GPU or in bfloat16, which numpy does not know
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"Found a {type(image).__name__} where a picture was expected. Pass a Pillow image, a numpy array, a torch "
            "tensor, a path, an http(s) URL or a data: URI."
        )
    array = _channels_last(image, input_data_format)
    if array.dtype == np.uint16 and array.shape[-1] == 1:
        return Image.fromarray(array[..., 0])  # mode I;16, which Pillow reduces as it does for 16-bit files
    pixels = _to_uint8(array)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _channels_last(array: np.ndarray, input_data_format: Any) -> np.ndarray:
    """[height, width], [channels, height, width] or [height, width, channels] -> [height, width, channels]."""
    if array.ndim == 2:
        return array[..., None]
    first = array.ndim == 3 and array.shape[0] in SUPPORTED_CHANNELS
    last = array.ndim == 3 and array.shape[-1] in SUPPORTED_CHANNELS
    if first and last and input_data_format is None:
        # One colour channel beside three or four: a picture of one row or column, not a grey one of that many.
        first, last = array.shape[0] > 1 == array.shape[-1], array.shape[-1] > 1 == array.shape[0]
        if not (first or last):
            raise ValueError(
                f"Found an image array of shape {list(array.shape)}, whose channels may stand first or last. "
                'Pass input_data_format="channels_first" or "channels_last".'
            )
    asked = getattr(input_data_format, "value", input_data_format)
    if first and asked in (None, "channels_first"):
        return array.transpose(1, 2, 0)
    if last and asked in (None, "channels_last"):
        return array
    channels = ", ".join(map(str, SUPPORTED_CHANNELS))
    raise ValueError(
        f"Found an image array of shape {list(array.shape)}; expected [height, width], [height, width, channels] or "
        f"[channels, height, width] with {channels} channels" + (f" ({asked} was asked for)." if asked else ".")
    )


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.size == 0:
        return array.astype(np.uint8)
    low, high = float(array.min()), float(array.max())
    # Interpolated pictures leave [0, 1] by a rounding error.
    if np.issubdtype(array.dtype, np.floating) and low >= -ROUNDING and high <= 1 + ROUNDING:
        return np.round(array.clip(0, 1) * 255).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer) and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    raise ValueError(
        f"Found an image array of {array.dtype} with values from {low:.9g} to {high:.9g}; expected integers in 0..255 "
        "or floats in [0, 1]. Pass the picture before any normalisation: the image processor normalises."
    )


def _shorten(text: str) -> str:
    shortener = reprlib.Repr()
    shortener.maxstring = 120
    return shortener.repr(text)
