"""From a picture in any form (file, link, bytes, array, tensor) to 8-bit RGB."""

import base64
import os
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_utils import load_image

SUPPORTED_CHANNELS = (1, 3, 4)
ROUNDING = 1e-4
# How long a server may be silent before a picture counts as unreachable; without a limit it is waited for for ever.
SECONDS_FOR_A_URL = 20.0


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
