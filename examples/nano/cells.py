"""What stands where in a picture, as labels on a grid: a second task for training.

Answers say little about a picture: a few tokens, and which part of the picture they are about is for the model to find
out. Yet everything in a drawn scene is known. So while it learns to answer, a linear layer on the image tokens also
says what is at each of `POINTS` points of the token's part of the picture: nothing, which character, which shape or a
bar; and in which colour. The layer is thrown away when training is over.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional
from transformers import BatchFeature

from deepseek_vl_hf.training import ConversationCollator

from .drawing import Box, View, draw_shape, font, parts
from .scenes import COLORS, SHAPES, SIDE, Scene, Shape, Text
from .strings import DIGITS

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + DIGITS
THINGS = ("nothing", *CHARACTERS, *SHAPES, "bar")
HUES = ("nothing", *COLORS)
# Points per image token: enough rows and columns that each character of the smallest text is hit.
ROWS, COLUMNS = 4, 6
POINTS = ROWS * COLUMNS
NOTHING_WEIGHT = 0.2  # most of a picture is empty


def label_points(scene: Scene, grid: int, view: View | None = None) -> np.ndarray:
    """Indices into THINGS and HUES.

    Args:
        scene: what was drawn.
        grid: side of the grid of image tokens.
        view: how it was drawn; what is cut off is padding for the image processor.

    Returns:
        uint8 [2, grid * grid, POINTS].
    """
    maps = [Image.new("L", (SIDE, SIDE), 0) for _ in range(2)]
    things, hues = (ImageDraw.Draw(each) for each in maps)
    for part in parts(scene):
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
    rows = ((np.arange(grid * ROWS) + 0.5) * SIDE / (grid * ROWS)).astype(int)
    columns = ((np.arange(grid * COLUMNS) + 0.5) * SIDE / (grid * COLUMNS)).astype(int)
    sampled = np.stack([np.asarray(_as_padded(each, view or View()))[rows[:, None], columns] for each in maps])
    cells = sampled.reshape(2, grid, ROWS, grid, COLUMNS).transpose(0, 1, 3, 2, 4)
    return cells.reshape(2, grid * grid, POINTS)


def _as_padded(labels: Image.Image, view: View) -> Image.Image:
    """Moves the labels where the image processor, which centres a picture on a square, moves the pixels."""
    width, height = view.right - view.left, view.bottom - view.top
    padded = Image.new("L", labels.size, 0)
    padded.paste(labels.crop(view.box), ((SIDE - width) // 2, (SIDE - height) // 2))
    return padded


def _label_box(things: ImageDraw.ImageDraw, hues: ImageDraw.ImageDraw, box: Box, hue: int) -> None:
    if box.right - box.left > 2 and box.bottom > box.top:  # axes are too thin to be named
        corners = (box.left, box.top, box.right, box.bottom)
        things.rectangle(corners, fill=THINGS.index("bar"))
        hues.rectangle(corners, fill=hue)


def character_boxes(text: Text) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Each character with the box (left, top, right, bottom) that it fills, in pixels."""
    ends = [font(text.font, text.size).getlength(text.text[:count]) for count in range(len(text.text) + 1)]
    left = text.x - ends[-1] / 2 if text.centered else text.x
    top, bottom = text.y - 0.4 * text.size, text.y + 0.4 * text.size
    return [
        (character, (left + start, top, left + end - 1, bottom))
        for character, start, end in zip(text.text, ends[:-1], ends[1:], strict=True)
    ]


class CellCollator:
    """`ConversationCollator`'s batches with the labels of the rows' `cells` beside them; rows may lack questions."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.collate = ConversationCollator(processor)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """Makes one batch; `cells` is uint8 [images, 2, tokens, POINTS]."""
        if any("messages" not in row for row in rows):
            pictures = [row.get("picture") or row["messages"][0]["content"][0]["image"] for row in rows]
            batch = self.processor.image_processor(pictures, return_tensors="pt")
        else:
            batch = self.collate(rows)
        batch["cells"] = torch.from_numpy(np.stack([row["cells"] for row in rows]))
        return batch


class CellHead(nn.Linear):
    """Says what is at each point, from image tokens [images, tokens, hidden]."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, POINTS * (len(THINGS) + len(HUES)))

    def loss(self, image_tokens: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Cross entropy of things and hues; `cells` as the collator makes them."""
        logits = self(image_tokens).unflatten(-1, (POINTS, -1)).float()
        parts_of_loss = []
        for found, expected in zip(logits.split((len(THINGS), len(HUES)), -1), cells.long().unbind(1), strict=True):
            weight = torch.ones(found.shape[-1], device=found.device)
            weight[0] = NOTHING_WEIGHT
            parts_of_loss.append(functional.cross_entropy(found.flatten(0, -2), expected.flatten(), weight))
        return sum(parts_of_loss, logits.new_zeros(()))
