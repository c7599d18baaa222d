"""Pictures in any form, opened and converted, one by one or in lists."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from .colors import to_rgb
from .sources import open_image

__all__ = ["flatten_pictures", "open_image", "open_images", "to_rgb"]

# Lists in lists, and not more of them than anybody writes: the rest are lists that hold themselves.
DEEPEST = 16


def flatten_pictures(images: Any, depth: int = 0) -> list[Any]:
    """Pictures in any nesting of lists as one list, in order; a four-dimensional array is a list of pictures.

    Raises:
        ValueError: lists that hold themselves, or are nested deeper than 16.
    """
    if depth > DEEPEST:
        raise ValueError(
            f"The lists of pictures are nested more than {DEEPEST} deep, or one of them holds itself. Pass one list of "
            "pictures, or one list per prompt."
        )
    if isinstance(images, (list, tuple)):
        return [picture for group in images for picture in flatten_pictures(group, depth + 1)]
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def open_images(
    pictures: Sequence[Any],
    input_data_format: Any = None,
    transparency: str = "white",
    local: bool = True,
) -> list[Image.Image]:
    """Reads and converts pictures for which errors shall say which one it was.

    Args:
        pictures: see `open_image` and `to_rgb`.
        input_data_format: see `to_rgb`.
        transparency: see `to_rgb`.
        local: see `open_image`.

    Raises:
        TypeError, ValueError: as `open_image` and `to_rgb`, with the picture's number in front.
    """
    opened = []
    for number, picture in enumerate(pictures):
        try:
            opened.append(to_rgb(open_image(picture, local), input_data_format, transparency))
        except (TypeError, ValueError) as error:
            raise type(error)(f"Image {number} of {len(pictures)}: {error}") from error
    return opened
