"""Boxes in pixels, as rows carry them, written into the conversation as DeepSeek-VL2 reads and writes them.

row: messages with `<ref-object>` and `<bbox>`, and beside them
    "objects": {"ref": ["a dog"], "bbox": [[left, top, right, bottom]]}       ms-swift's column
  --each `<ref-object>` takes a name, each `<bbox>` one box or a list of them, in their order-->
<|ref|>a dog<|/ref|>  <|det|>[[x1, y1, x2, y2]]<|/det|>                       thousandths of the picture's sides
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..conversation.messages import Conversation
from ..kinds import is_number
from ..models.grounding import LARGEST_COORDINATE

REF, BBOX = "<ref-object>", "<bbox>"
_PLACES = re.compile(f"{re.escape(REF)}|{re.escape(BBOX)}")
# What coordinates count: pixels of the picture, or shares of its sides.
PIXELS, SHARES = "real", "norm1"
_KEYS = ("ref", "bbox", "bbox_type", "image_id")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Objects:
    """What a row says of things and where they are.

    Attributes:
        names: for each `<ref-object>` its name.
        boxes: for each `<bbox>` its boxes.
        pictures: for each `<bbox>` the number of its picture, counted from zero.
        in_shares: whether coordinates are shares of the picture's sides instead of pixels.
    """

    names: list[str]
    boxes: list[list[Box]]
    pictures: list[int]
    in_shares: bool


def read_objects(column: Any, num_pictures: int) -> Objects:
    """Reads a row's column `objects`.

    Args:
        column: see the module's docstring. `bbox_type` is `real` (pixels, the default) or `norm1` (shares); `image_id`
            says for each of several pictures' boxes in which they are.
        num_pictures: that the row has.

    Raises:
        ValueError, TypeError: it is no such column, a box is none, or its picture is not there or not named.
    """
    if not isinstance(column, Mapping):
        raise TypeError(f'Found `objects` of type {type(column).__name__}; expected {{"ref": [...], "bbox": [...]}}.')
    unread = [name for name, value in column.items() if name not in _KEYS and value]
    if unread:
        raise ValueError(f"Found {', '.join(map(repr, unread))} in `objects`; expected {', '.join(_KEYS)} alone.")
    kind = column.get("bbox_type") or PIXELS
    if kind not in (PIXELS, SHARES):
        raise ValueError(f"Found the bbox_type {kind!r}; expected {PIXELS!r} (pixels) or {SHARES!r} (shares).")
    names = list(column.get("ref") or ())
    if not all(isinstance(name, str) for name in names):
        raise TypeError("Found a `ref` that is not a list of texts; expected a name for each <ref-object>.")
    boxes = [[*_boxes_of(value, number)] for number, value in enumerate(column.get("bbox") or (), 1)]
    return Objects(names, boxes, _pictures_of(column.get("image_id"), len(boxes), num_pictures), kind == SHARES)


def _boxes_of(value: Any, number: int) -> Iterator[Box]:
    """One box, or each of a list of them."""
    value = value.tolist() if hasattr(value, "tolist") else value
    several = isinstance(value, Sequence) and len(value) > 0 and not is_number(value[0])
    for box in value if several else [value]:
        if not isinstance(box, Sequence) or len(box) != 4 or not all(map(is_number, box)):
            raise ValueError(f"Box {number} is {str(box)[:80]}; expected the numbers [left, top, right, bottom].")
        left, top, right, bottom = map(float, box)
        yield left, top, right, bottom


def _pictures_of(given: Any, num_boxes: int, num_pictures: int) -> list[int]:
    if not num_boxes:
        return []
    if given is None and num_pictures == 1:
        return [0] * num_boxes
    pictures = list(given or ())
    if len(pictures) != num_boxes or not all(isinstance(number, int) for number in pictures):
        raise ValueError(
            f"Found {num_boxes} boxes, {num_pictures} pictures and the image_id {given}; expected for each box the "
            "number of its picture, counted from zero."
        )
    for number in pictures:
        if not 0 <= number < num_pictures:
            raise ValueError(f"Found the image_id {number} with {num_pictures} pictures, which are counted from zero.")
    return pictures


def check_places(conversation: Conversation, objects: Objects) -> None:
    """Raises ValueError unless a conversation has as many places as there are names and boxes."""
    text = "".join(_texts(conversation))
    for place, given in ((REF, objects.names), (BBOX, objects.boxes)):
        if text.count(place) != len(given):
            raise ValueError(
                f"Found {text.count(place)} times {place} and {len(given)} in `objects`; expected as many of each."
            )


def _texts(conversation: Conversation) -> Iterator[str]:
    for message in conversation:
        content = message["content"]
        yield from [content] if isinstance(content, str) else (part.get("text", "") for part in content)


def write_objects(conversation: Conversation, objects: Objects, sizes: Sequence[tuple[int, int]]) -> Conversation:
    """Puts names and boxes into their places.

    Args:
        conversation: normalized messages, with the places that `check_places` has counted.
        objects: of the row.
        sizes: width and height of each picture in pixels.

    Raises:
        ValueError: a box is not inside its picture, or its right or lower edge lies before the other.
    """
    names = iter(objects.names)
    numbered = enumerate(zip(objects.boxes, objects.pictures, strict=True), 1)
    boxes = (
        [_thousandths(box, sizes[picture], objects.in_shares, number) for box in group]
        for number, (group, picture) in numbered
    )

    def filled(match: re.Match[str]) -> str:
        return f"<|ref|>{next(names)}<|/ref|>" if match[0] == REF else f"<|det|>{next(boxes)}<|/det|>"

    def with_text(part: dict[str, Any]) -> dict[str, Any]:
        return {**part, "text": _PLACES.sub(filled, part["text"])} if part.get("type") == "text" else part

    return [
        {**message, "content": _PLACES.sub(filled, content)}
        if isinstance(content := message["content"], str)
        else {**message, "content": [with_text(part) for part in content]}
        for message in conversation
    ]


def _thousandths(box: Box, size: tuple[int, int], in_shares: bool, number: int) -> list[int]:
    """A box as the model writes it: 0 is the left or upper edge of the picture, 999 the other one."""
    sides = (1, 1) if in_shares else size
    left, top, right, bottom = (value / side for value, side in zip(box, (*sides, *sides), strict=True))
    if not (0 <= left <= right <= 1 and 0 <= top <= bottom <= 1):
        of = "a picture" if in_shares else f"a picture of {size[0]} x {size[1]} pixels"
        raise ValueError(f"Box {number} is {list(box)} in {of}; expected [left, top, right, bottom] inside of it.")
    return [round(value * LARGEST_COORDINATE) for value in (left, top, right, bottom)]
