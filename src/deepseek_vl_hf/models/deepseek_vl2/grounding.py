"""Places in a picture, as DeepSeek-VL2 writes them: `<|ref|>text<|/ref|><|det|>[[x1, y1, x2, y2], ...]<|/det|>`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

LARGEST_COORDINATE = 999  # coordinates are thousandths of the picture's width and height

_TEXT = r"(?:(?!<\|).)*"  # up to the next special token
_LABEL, _BOXES = rf"(?:<\|ref\|>(?P<label>{_TEXT})<\|/ref\|>)?", rf"<\|det\|>(?P<boxes>{_TEXT})"
_NAMED = re.compile(rf"{_LABEL}\s*{_BOXES}", re.DOTALL)
_BOX = re.compile(r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")

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


def find_boxes(text: str, image_size: Sequence[int]) -> GroundedText:
    """Reads the places out of an answer.

    What is unfinished or malformed is left out: a box that lacks a number or has one above 999, or whose right or lower
    edge lies before the other. A box becomes pixels as in the original: value / 999 * size, truncated.

    Args:
        text: the answer with its special tokens.
        image_size: (height, width) of the picture in pixels.
    """
    height, width = image_size
    labels: list[str] = []
    boxes: list[list[Box]] = []
    for match in _NAMED.finditer(text):
        numbers = [tuple(map(int, box)) for box in _BOX.findall(match["boxes"])]
        good = [box for box in numbers if max(box) <= LARGEST_COORDINATE and box[0] <= box[2] and box[1] <= box[3]]
        if good:
            labels.append((match["label"] or "").strip())
            boxes.append([_to_pixels(box, width, height) for box in good])
    return GroundedText(labels, boxes)


def _to_pixels(box: tuple[int, ...], width: int, height: int) -> Box:
    left, top, right, bottom = (
        int(value / LARGEST_COORDINATE * size) for value, size in zip(box, (width, height) * 2, strict=True)
    )
    return left, top, right, bottom
