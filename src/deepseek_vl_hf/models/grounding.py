"""Places in a picture, as DeepSeek-VL2 and DeepSeek-OCR write them.

<|ref|>text<|/ref|><|det|>[[x1, y1, x2, y2], ...]<|/det|>
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

LARGEST_COORDINATE = 999  # coordinates are thousandths of the picture's width and height

# Up to the next of the model's special tokens; other text may hold `<|`.
_TEXT = r"(?:(?!<\|/?(?:ref|det)\|>|<\|(?:grounding|User|Assistant)\|>).)*"
_LABEL, _BOXES = rf"(?:<\|ref\|>(?P<label>{_TEXT})<\|/ref\|>[\s:：]*)?", rf"<\|det\|>(?P<boxes>{_TEXT})"
_NAMED = re.compile(rf"{_LABEL}{_BOXES}", re.DOTALL)
# The model writes integers; what it was fine-tuned on may hold fractions.
_NUMBER = r"\s*(\d+(?:\.\d*)?)\s*"
_BOX = re.compile(rf"\[{','.join([_NUMBER] * 4)}\]", re.ASCII)

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class GroundedText:
    """What an answer says of places.

    Attributes:
        labels: for each named thing its name; empty where the answer gives boxes without one.
        boxes: for each of them its boxes (left, top, right, bottom), in pixels.
    """

    labels: list[str]
    boxes: list[list[Box]]


def find_all_boxes(text: str | Sequence[str], image_sizes: Any) -> list[GroundedText]:
    """Reads the places out of answers.

    Args:
        text: one answer or several, decoded with `skip_special_tokens=False`.
        image_sizes: for each answer the (height, width) of the picture that it speaks of, in pixels, or the picture
            itself as a Pillow image. For one answer one picture will do.

    Raises:
        TypeError, ValueError: other numbers of answers and of sizes, or what is no answer or no size.
    """
    texts = [text] if isinstance(text, str) else list(text)
    if isinstance(image_sizes, Image.Image):
        image_sizes = [image_sizes]
    if len(texts) != len(image_sizes):
        raise ValueError(
            f"Found {len(texts)} answers and {len(image_sizes)} image sizes; expected one size per answer, the "
            "(height, width) of the picture that it speaks of."
        )
    return list(itertools.starmap(find_boxes, zip(texts, image_sizes, strict=True)))


def find_boxes(text: str, image_size: Any) -> GroundedText:
    """Reads the places out of an answer.

    What is unfinished or malformed is left out: a box that lacks a number or has one above 999, or whose right or lower
    edge lies before the other. A box becomes pixels as in the original: value / 999 * size, truncated.

    Args:
        text: the answer with its special tokens.
        image_size: (height, width) of the picture in pixels, or the picture itself as a Pillow image.

    Raises:
        TypeError, ValueError: the text is no string, or the size is neither a picture nor two sizes of at least 1.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"Found a {type(text).__name__} as answer; expected a string, decoded with skip_special_tokens=False."
        )
    height, width = _height_and_width(image_size)
    labels: list[str] = []
    boxes: list[list[Box]] = []
    for match in _NAMED.finditer(text):
        numbers = [tuple(map(float, box)) for box in _BOX.findall(match["boxes"])]
        good = [box for box in numbers if max(box) <= LARGEST_COORDINATE and box[0] <= box[2] and box[1] <= box[3]]
        if good:
            labels.append((match["label"] or "").strip())
            boxes.append([_to_pixels(box, width, height) for box in good])
    return GroundedText(labels, boxes)


def _height_and_width(image_size: Any) -> tuple[int, int]:
    if isinstance(image_size, Image.Image):
        return image_size.height, image_size.width
    given = image_size.tolist() if hasattr(image_size, "tolist") else image_size
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(
            f"Found a {type(image_size).__name__} as the size of a picture; expected its (height, width) in pixels, or "
            "the picture as a Pillow image."
        )
    if len(given) != 2 or not all(isinstance(side, (int, float)) and 1 <= side < float("inf") for side in given):
        shown = f"an array of shape {list(image_size.shape)}" if hasattr(image_size, "shape") else repr(given)[:100]
        raise ValueError(
            f"Found {shown} as the size of a picture; expected its (height, width) in pixels, or the picture as a "
            "Pillow image."
        )
    return int(given[0]), int(given[1])


def _to_pixels(box: tuple[float, ...], width: int, height: int) -> Box:
    left, top, right, bottom = (
        int(value / LARGEST_COORDINATE * size) for value, size in zip(box, (width, height) * 2, strict=True)
    )
    return left, top, right, bottom
