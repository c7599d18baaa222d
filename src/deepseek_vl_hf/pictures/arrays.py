"""Arrays and tensors to 8 bits: where the channels stand, and which range the numbers have."""

from typing import Any

import numpy as np
import torch

SUPPORTED_CHANNELS = (1, 3, 4)
# By which part of their range floats may leave it: interpolated pictures do, by a rounding error.
ROUNDING = 1e-4
# Floats beyond 1 and below this may be on either scale: overshoot of [0, 1], or a black picture in [0, 255].
SURELY_BYTES = 2.0
# 65535 / 255. It is odd, so no value lies half way between two levels.
LEVELS_PER_BYTE = 257


def as_array(image: Any) -> np.ndarray:
    """A numpy array or a torch tensor on any device as a numpy array.

    Raises:
        TypeError: neither.
        ValueError: a tensor without numbers that can be read, such as one on the meta device.
    """
    if isinstance(image, torch.Tensor):
        try:
            image = image.detach().cpu()
            # numpy does not know bfloat16.
            return (image.float() if image.is_floating_point() else image).numpy()
        except (NotImplementedError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"A tensor of {image.dtype} on the device {image.device} could not be read as a picture: {error}"
            ) from error
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"Found a {type(image).__name__} where a picture was expected. Pass a Pillow image, a numpy array, a torch "
            "tensor, a path, a file, bytes, an http(s) URL or a data: URI."
        )
    return image


def channels_last(array: np.ndarray, input_data_format: Any = None) -> np.ndarray:
    """[height, width], [channels, height, width] or [height, width, channels] -> [height, width, channels].

    Args:
        array: of 1, 3 or 4 channels.
        input_data_format: "channels_first" or "channels_last" for shapes that can be read both ways.

    Raises:
        ValueError: other channels, or a shape that can be read both ways.
    """
    if array.ndim == 2:
        return array[..., None]
    first = array.ndim == 3 and array.shape[0] in SUPPORTED_CHANNELS
    last = array.ndim == 3 and array.shape[-1] in SUPPORTED_CHANNELS
    if first and last and input_data_format is None:
        # One color channel beside three or four: a picture of one row or column, not a gray one of that many.
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


def to_uint8(array: np.ndarray, sixteen_bits: bool = False) -> tuple[np.ndarray, bool]:
    """Numbers of a picture in 8 bits.

    * Integers in 0..255 stay. `uint16`, and other integers of which one lies above 255, have 16 bits: 0..65535 become
      0..255, rounded to the nearest level.
    * Floats are in [0, 1]; if one lies beyond 1, in [0, 255]. They are rounded to the nearest level.

    Args:
        array: of any shape.
        sixteen_bits: whether integers have 16 bits whatever their values.

    Returns:
        uint8 of the same shape, and whether the numbers were floats in [0, 1].

    Raises:
        ValueError: numbers of another kind or outside of these ranges.
    """
    if array.dtype.kind not in "uif":
        # True and False may mean 255 and 0, or 1 and 0.
        raise ValueError(
            f"Found an image array of {array.dtype}; expected integers in 0..255, 16-bit integers or floats in [0, 1]. "
            "Convert it with astype first."
        )
    if array.dtype == np.uint8 or array.size == 0:
        return array.astype(np.uint8, copy=False), False
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f":
        if low >= -ROUNDING and high <= 1 + ROUNDING:
            return np.round(array.clip(0, 1) * 255).astype(np.uint8), True
        if low >= -255 * ROUNDING and SURELY_BYTES <= high <= 255 * (1 + ROUNDING):
            return np.round(array.clip(0, 255)).astype(np.uint8), False
    elif low >= 0 and high <= 65535:
        if not (sixteen_bits or array.dtype.type is np.uint16 or high > 255):
            return array.astype(np.uint8), False
        return ((array.astype(np.uint32) + LEVELS_PER_BYTE // 2) // LEVELS_PER_BYTE).astype(np.uint8), False
    raise ValueError(
        f"Found an image array of {array.dtype} with values from {low:.9g} to {high:.9g}; expected integers in 0..255 "
        "or 0..65535, or floats in [0, 1] or [0, 255]. Pass the picture before any normalization: the image processor "
        "normalizes."
    )
