"""What stands where in a picture, as labels on a grid: a second task for training.

Answers say little about a picture: a few tokens, and which part of the picture they are about is for the model to find
out. Yet everything in a drawn scene is known. So while it learns to answer, a linear layer on the image tokens also
says what is at each of `POINTS` points of the token's part of the picture: nothing, which character, which shape or a
bar, and in which color; which shape has its middle there, or which bar its top, for counting and comparing; and in
which column and row of the grid the token is. The layer is thrown away when training is over.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional
from transformers import BatchFeature

from deepseek_vl_hf.training.collator import ConversationCollator

from .drawing import Box, Part, View, draw_shape, font, parts
from .scenes import COLORS, SHAPES, SIDE, AnyScene, Shape, Text
from .strings import DIGITS

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + DIGITS
THINGS = ("nothing", *CHARACTERS, *SHAPES, "bar")
HUES = ("nothing", *COLORS)
# Points per image token: enough rows and columns that each character of the smallest text is hit.
ROWS, COLUMNS = 4, 6
POINTS = ROWS * COLUMNS
NOTHING_WEIGHT = 0.2  # most of a picture is empty
THIN = 20  # times as long as wide is what is a line and no bar, in pictures of any size


def label_points(scene: AnyScene, grid: int, view: View | None = None) -> np.ndarray:
    """Indices into THINGS and HUES.

    Args:
        scene: what was drawn.
        grid: side of the grid of image tokens.
        view: how it was drawn; what is cut off is padding for the image processor.

    Returns:
        uint8 [2, grid * grid, POINTS + 1]; the last one is the shape with its middle there, or the bar with its top.
    """
    view = view or View()
    maps = [Image.new("L", (SIDE, SIDE), 0) for _ in range(2)]
    things, hues = (ImageDraw.Draw(each) for each in maps)
    for part in parts(scene):
        draw_labels(things, hues, part)
    rows = ((np.arange(grid * ROWS) + 0.5) * SIDE / (grid * ROWS)).astype(int)
    columns = ((np.arange(grid * COLUMNS) + 0.5) * SIDE / (grid * COLUMNS)).astype(int)
    sampled = np.stack([np.asarray(_as_padded(each, view))[rows[:, None], columns] for each in maps])
    cells = sampled.reshape(2, grid, ROWS, grid, COLUMNS).transpose(0, 1, 3, 2, 4).reshape(2, grid * grid, POINTS)
    return np.concatenate([cells, _label_middles(scene, grid, view)[..., None]], -1)


def draw_labels(things: ImageDraw.ImageDraw, hues: ImageDraw.ImageDraw, part: Part) -> None:
    """Draws what a part is and its color, as indices into THINGS and HUES."""
    hue = HUES.index(part.color)
    if isinstance(part, Shape):
        draw_shape(things, part, THINGS.index(part.shape))
        draw_shape(hues, part, hue)
    elif isinstance(part, Text):
        for character, box in character_boxes(part):
            things.rectangle(box, fill=THINGS.index(character))
            hues.rectangle(box, fill=hue)
    else:
        _label_box(things, hues, part, hue)


def _label_middles(scene: AnyScene, grid: int, view: View) -> np.ndarray:
    """uint8 [2, grid * grid]: the thing and the hue of what has its middle in a token's part of the picture."""
    labels = np.zeros((2, grid, grid), np.uint8)
    across, down = view.shift
    for part in parts(scene):
        if isinstance(part, Shape):
            name, x, y = part.shape, float(part.x), float(part.y)
        elif isinstance(part, Box) and is_bar(part):
            name, x, y = "bar", (part.left + part.right) / 2, part.top
        else:
            continue
        row, column = int((y + down) * grid / SIDE), int((x + across) * grid / SIDE)
        labels[:, row, column] = THINGS.index(name), HUES.index(part.color)
    return labels.reshape(2, grid * grid)


def _as_padded(labels: Image.Image, view: View) -> Image.Image:
    """Moves the labels where the image processor moves the pixels."""
    across, down = view.shift
    padded = Image.new("L", labels.size, 0)
    padded.paste(labels.crop(view.box), (view.left + across, view.top + down))
    return padded


def is_bar(box: Box) -> bool:
    """Whether a rectangle is a bar of a chart, and no axis or line."""
    shorter, longer = sorted((box.right - box.left, box.bottom - box.top))
    return shorter > max(2, longer / THIN)  # axes are too thin to be named


def _label_box(things: ImageDraw.ImageDraw, hues: ImageDraw.ImageDraw, box: Box, hue: int) -> None:
    if is_bar(box):
        corners = (box.left, box.top, box.right, box.bottom)
        things.rectangle(corners, fill=THINGS.index("bar"))
        hues.rectangle(corners, fill=hue)


def character_boxes(text: Text) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Each character with the box (left, top, right, bottom) that it fills, in pixels."""
    ends = [0.0, *accumulate(_advance(text.font, text.size, character) for character in text.text)]
    left = text.x - ends[-1] / 2 if text.centered else text.x
    top, bottom = text.y - 0.4 * text.size, text.y + 0.4 * text.size
    return [
        (character, (left + start, top, left + end - 1, bottom))
        for character, start, end in zip(text.text, ends[:-1], ends[1:], strict=True)
    ]


@lru_cache(maxsize=8192)
def _advance(name: str, size: int, character: str) -> float:
    """Width of a character in pixels; asking Pillow for that of each beginning of a text takes ten times as long."""
    return font(name, size).getlength(character)


class CellCollator:
    """`ConversationCollator`'s batches with the labels of the rows' `cells` beside them; rows may lack questions."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.collate = ConversationCollator(processor)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """Makes one batch; `cells` is uint8 [images, 2, tokens, POINTS + 1]."""
        if any("messages" not in row for row in rows):
            pictures = [row.get("picture") or row["messages"][0]["content"][0]["image"] for row in rows]
            batch = self.processor.image_processor(pictures, return_tensors="pt")
        else:
            batch = self.collate([{"messages": row["messages"]} for row in rows])
        batch["cells"] = torch.from_numpy(np.stack([row["cells"] for row in rows]))
        return batch


class CellHead(nn.Linear):
    """Says what is at each point and where the token is, from image tokens [images, grid * grid, hidden].

    Args:
        hidden_size: width of the tokens.
        grid: side of the grid of tokens.
    """

    def __init__(self, hidden_size: int, grid: int) -> None:
        super().__init__(hidden_size, (POINTS + 1) * (len(THINGS) + len(HUES)) + 2 * grid)
        self.grid = grid

    def loss(self, image_tokens: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Cross entropy of things, hues, columns and rows; `cells` as the collator makes them."""
        logits = self(image_tokens).float()
        points, place = logits.split((self.out_features - 2 * self.grid, 2 * self.grid), -1)
        kinds = points.unflatten(-1, (POINTS + 1, -1)).split((len(THINGS), len(HUES)), -1)
        losses = []
        for found, expected in zip(kinds, cells.long().unbind(1), strict=True):
            weight = torch.ones(found.shape[-1], device=found.device)
            weight[0] = NOTHING_WEIGHT
            losses.append(functional.cross_entropy(found.flatten(0, -2), expected.flatten(), weight))
        numbers = torch.arange(self.grid**2, device=logits.device).repeat(len(cells))  # of the tokens, row by row
        columns, rows = place.flatten(0, 1).split(self.grid, -1)
        losses.append(functional.cross_entropy(columns, numbers % self.grid))
        losses.append(functional.cross_entropy(rows, numbers // self.grid))
        return sum(losses, logits.new_zeros(()))
