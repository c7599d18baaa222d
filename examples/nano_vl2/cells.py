"""What stands where in each view of a picture, as labels for its tokens: a second task for training.

The same idea as in `nano.cells`, for views: a linear layer on a token says what is at each of `POINTS` points of its
part of the view, and in which column and row of the view it is. Of each patch of it, it says which shape has its middle
there or which bar its top. And it says which shape takes most of it, if one takes enough, and in the view of the whole,
where the edges of that shape's box are: each at one of fifty places, of which the neighbors of the right one are nearly
right, too. Of text it says which characters have their middles in the token, one after the other, so that reading is
going from token to token. There is one place for all this in each token, because what looks for a thing by its name has
to look there for every thing. The layer is thrown away when training is over.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional

from nano.cells import COLUMNS, HUES, NOTHING_WEIGHT, POINTS, ROWS, THINGS, character_boxes, draw_labels, is_bar
from nano.drawing import Box, draw_shape
from nano.scenes import Shape, Text

from .pictures import COORDINATES, STEP, TILE, Picture, corners

PATCH = 14
SIDE = TILE // PATCH // 2  # tokens along the edge of a view
PATCHES = 4  # per token
ENOUGH = 4  # of a token's points, for a shape to be what it shows
EDGES, PLACES = 4, len(COORDINATES)  # of a box
# In places: how far from the right one there are others that are nearly right. With exact digits instead of this a
# linear layer found 72 % of the boxes by digits, and with it 97 %, from the same tokens.
NEAR = 1.0
CHARACTERS = 4  # of a token
IGNORED = 255
# Pixels of a view: smaller text is not asked for, because nobody could read it.
READABLE = 9.0


@dataclass(frozen=True)
class _View:
    """Where a picture lies in the pixels of the tiles that show it: place = scale * place in the picture + shift."""

    scale: float
    across: float
    down: float
    columns: int
    rows: int


Labels = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
LABELS = ("points", "middles", "mains", "texts")  # their names


def label_views(picture: Picture, tiled: bool = True) -> Labels:
    """Labels of all views of a picture: the whole, then the tiles row by row.

    Args:
        picture: what was drawn.
        tiled: whether it is cut into tiles.

    Returns:
        points: uint8 [views, SIDE * SIDE, 2, POINTS], indices into THINGS and HUES.
        middles: uint8 [views, SIDE * SIDE, PATCHES, 2], a thing and its hue.
        mains: uint8 [views, SIDE * SIDE, 2 + EDGES], a shape, its hue, and the places of left, top, right, bottom.
        texts: uint8 [views, SIDE * SIDE, 1 + CHARACTERS], the first character's hue, then characters line by line.

        IGNORED stands for what is not asked.
    """
    maps = _maps(picture)
    found: list[Labels] = []
    for view in (_view(picture, (1, 1)), _view(picture, picture.grid if tiled else (1, 1))):
        points, numbers = _points(maps, view, picture)
        mains = _mains(_main_shapes(numbers, picture, view), picture, boxed=not found)
        found.append((points, _middles(picture, view), mains, _texts(picture, view)))
    points, middles, mains, texts = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return points, middles, mains, texts


def whole_shapes(picture: Picture) -> np.ndarray:
    """Which of the shapes each token of the view of the whole shows: [SIDE * SIDE], from 1 on, 0 for none."""
    view = _view(picture, (1, 1))
    return _main_shapes(_points(_maps(picture), view, picture)[1], picture, view)[0]


def whole_middles(picture: Picture) -> list[int]:
    """For each shape, the token of the view of the whole in which its middle lies."""
    view = _view(picture, (1, 1))
    places = (_middle(shape, view) for shape in shapes_of(picture))
    return [row * SIDE + column for column, row in places]


def tile_characters(picture: Picture) -> Iterator[tuple[Text, int, int, int]]:
    """The characters that the tiles show: the text, the character's number in it, and its token's column and row."""
    return _characters(picture, _view(picture, picture.grid))


def whole_characters(picture: Picture) -> Iterator[tuple[Text, int, int, int]]:
    """Those that the view of the whole shows, likewise."""
    return _characters(picture, _view(picture, (1, 1)))


def tile_scale(picture: Picture) -> float:
    """Pixels of the tiles per pixel of a picture."""
    return _view(picture, picture.grid).scale


def tile_place(picture: Picture, x: float, y: float) -> tuple[int, int]:
    """Column and row of the tiles' token that shows a place of a picture."""
    return _token_at(_view(picture, picture.grid), x, y)


def shapes_of(picture: Picture) -> list[Shape]:
    """In the order of drawing."""
    return [part for part in picture.parts if isinstance(part, Shape)]


def _view(picture: Picture, grid: tuple[int, int]) -> _View:
    columns, rows = grid
    scale = min(columns * TILE / picture.width, rows * TILE / picture.height)
    across = (columns * TILE - scale * picture.width) / 2
    down = (rows * TILE - scale * picture.height) / 2
    return _View(scale, across, down, columns, rows)


def _maps(picture: Picture) -> np.ndarray:
    """uint8 [4, height, width]: thing, hue, the font size of text, and the number of the shape at each pixel."""
    images = [Image.new("L", (picture.width, picture.height), 0) for _ in range(4)]
    things, hues, sizes, numbers = (ImageDraw.Draw(each) for each in images)
    count = 0
    for part in picture.parts:
        draw_labels(things, hues, part)
        if isinstance(part, Text):
            for _, box in character_boxes(part):
                sizes.rectangle(box, fill=part.size)
        elif isinstance(part, Shape):
            count += 1
            draw_shape(numbers, part, count)
    return np.stack([np.asarray(each) for each in images])


def _points(maps: np.ndarray, view: _View, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [tiles, tokens, 2, POINTS] of the tiles of a view, and the numbers of shapes [tiles, tokens, POINTS]."""
    x, inside_x = _places(
        view.columns * SIDE * COLUMNS, TILE / (SIDE * COLUMNS), view.scale, view.across, picture.width
    )
    y, inside_y = _places(view.rows * SIDE * ROWS, TILE / (SIDE * ROWS), view.scale, view.down, picture.height)
    things, hues, sizes, numbers = maps[:, y[:, None], x] * (inside_y[:, None] & inside_x)
    unreadable = (sizes > 0) & (sizes * view.scale < READABLE)
    labels = np.stack([*(np.where(unreadable, IGNORED, each) for each in (things, hues)), numbers]).astype(np.uint8)
    # [3, rows, SIDE, ROWS, columns, SIDE, COLUMNS] -> [rows, columns, SIDE, SIDE, 3, ROWS, COLUMNS]
    labels = labels.reshape(3, view.rows, SIDE, ROWS, view.columns, SIDE, COLUMNS).transpose(1, 4, 2, 5, 0, 3, 6)
    labels = labels.reshape(view.rows * view.columns, SIDE * SIDE, 3, POINTS)
    return labels[:, :, :2], labels[:, :, 2]


def _mains(numbers: np.ndarray, picture: Picture, boxed: bool) -> np.ndarray:
    """uint8 [tiles, tokens, 2 + EDGES], from the numbers of `_main_shapes`; with boxes in the picture or without."""
    shapes = shapes_of(picture)
    known = np.full((len(shapes) + 1, 2 + EDGES), IGNORED, np.uint8)
    known[0, :2] = 0
    for number, shape in enumerate(shapes, 1):
        known[number, :2] = THINGS.index(shape.shape), HUES.index(shape.color)
        if boxed:
            known[number, 2:] = [edge // STEP for edge in corners(shape, picture.width, picture.height)]
    return known[numbers]


def _main_shapes(numbers: np.ndarray, picture: Picture, view: _View) -> np.ndarray:
    """The number of the shape that takes most of each token, from those at its points: [tiles, tokens]."""
    shapes = shapes_of(picture)
    counts = np.zeros((*numbers.shape[:2], len(shapes) + 1), int)
    counts[..., 0] = ENOUGH - 1
    for number, shape in enumerate(shapes, 1):
        counts[..., number] = (numbers == number).sum(-1)
        # Small shapes may take little of any token; they are found where their middle is.
        column, row = _middle(shape, view)
        tile = row // SIDE * view.columns + column // SIDE
        counts[tile, row % SIDE * SIDE + column % SIDE, number] += POINTS
    return counts.argmax(-1)


def _middle(shape: Shape, view: _View) -> tuple[int, int]:
    """Column and row of the token."""
    return _token_at(view, shape.x, shape.y)


def _token_at(view: _View, x: float, y: float) -> tuple[int, int]:
    size = TILE // SIDE
    return int((view.scale * x + view.across) / size), int((view.scale * y + view.down) / size)


def _places(count: int, step: float, scale: float, shift: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in the picture each point lies, and whether it lies in it."""
    places = np.floor(((np.arange(count) + 0.5) * step - shift) / scale).astype(int)
    return places.clip(0, size - 1), (places >= 0) & (places < size)


def _middles(picture: Picture, view: _View) -> np.ndarray:
    """uint8 [tiles, tokens, PATCHES, 2] of the tiles of a view."""
    labels = np.zeros((view.rows * SIDE * 2, view.columns * SIDE * 2, 2), np.uint8)
    for part in picture.parts:
        if isinstance(part, Shape):
            name, x, y = part.shape, float(part.x), float(part.y)
        elif isinstance(part, Box) and is_bar(part):
            name, x, y = "bar", (part.left + part.right) / 2, part.top
        else:
            continue
        column, row = (int((view.scale * at + shift) / PATCH) for at, shift in ((x, view.across), (y, view.down)))
        labels[row, column] = THINGS.index(name), HUES.index(part.color)
    # [rows, SIDE, 2, columns, SIDE, 2, 2] -> [rows, columns, SIDE, SIDE, 2, 2, 2]
    labels = labels.reshape(view.rows, SIDE, 2, view.columns, SIDE, 2, 2).transpose(0, 3, 1, 4, 2, 5, 6)
    return labels.reshape(view.rows * view.columns, SIDE * SIDE, PATCHES, 2)


def _characters(picture: Picture, view: _View, readable: bool = True) -> Iterator[tuple[Text, int, int, int]]:
    """As of `tile_characters`, from the top; those that are too small to be read, if `readable` is False."""
    for part in sorted((part for part in picture.parts if isinstance(part, Text)), key=lambda text: text.y):
        if (part.size * view.scale >= READABLE) != readable:
            continue
        for number, (_, (left, top, right, bottom)) in enumerate(character_boxes(part)):
            column, row = _token_at(view, (left + right) / 2, (top + bottom) / 2)
            if 0 <= row < view.rows * SIDE and 0 <= column < view.columns * SIDE:
                yield part, number, column, row


def _texts(picture: Picture, view: _View) -> np.ndarray:
    """uint8 [tiles, tokens, 1 + CHARACTERS] of the tiles of a view."""
    labels = np.zeros((view.rows * SIDE, view.columns * SIDE, 1 + CHARACTERS), np.uint8)
    counts = np.zeros(labels.shape[:2], int)
    for part, number, column, row in _characters(picture, view):
        if counts[row, column] < CHARACTERS:
            if not counts[row, column]:
                labels[row, column, 0] = HUES.index(part.color)
            counts[row, column] += 1
            labels[row, column, counts[row, column]] = THINGS.index(part.text[number])
    for _, _, column, row in _characters(picture, view, readable=False):
        labels[row, column] = IGNORED
    # [rows, SIDE, columns, SIDE, characters] -> [rows, columns, SIDE, SIDE, characters]
    labels = labels.reshape(view.rows, SIDE, view.columns, SIDE, -1).transpose(0, 2, 1, 3, 4)
    return labels.reshape(view.rows * view.columns, SIDE * SIDE, 1 + CHARACTERS)


class CellHead(nn.Module):
    """Says what `label_views` says, from the projector's tokens [views, tokens, hidden].

    Args:
        hidden_size: width of the tokens.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.points = nn.Linear(hidden_size, POINTS * (len(THINGS) + len(HUES)))
        self.middles = nn.Linear(hidden_size, PATCHES * (len(THINGS) + len(HUES)))
        self.mains = nn.Linear(hidden_size, len(THINGS) + len(HUES) + EDGES * PLACES)
        self.texts = nn.Linear(hidden_size, len(HUES) + CHARACTERS * len(THINGS))
        self.place = nn.Linear(hidden_size, 2 * SIDE)

    def losses(
        self,
        tokens: torch.Tensor,
        points: torch.Tensor,
        middles: torch.Tensor,
        mains: torch.Tensor,
        texts: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Cross entropies of all labels, which are as of `label_views`, and of the tokens' columns and rows."""
        at_points = self.points(tokens).float().unflatten(-1, (POINTS, -1))
        in_middles = self.middles(tokens).float().unflatten(-1, (PATCHES, -1))
        hues, characters = self.texts(tokens).float().split((len(HUES), CHARACTERS * len(THINGS)), -1)
        shown, edges = self.mains(tokens).float().split((len(THINGS) + len(HUES), EDGES * PLACES), -1)
        return {
            "points": thing_loss(at_points, points.long().transpose(2, 3)),
            "middles": thing_loss(in_middles, middles.long()),
            "shapes": thing_loss(shown, mains[..., :2].long()),
            "boxes": box_loss(edges, mains[..., 2:]),
            "texts": entropy(hues, texts[..., 0].long())
            + entropy(characters.unflatten(-1, (CHARACTERS, -1)), texts[..., 1:].long()),
            "place": self._of_places(tokens),
        }

    def _of_places(self, tokens: torch.Tensor) -> torch.Tensor:
        numbers = torch.arange(SIDE**2, device=tokens.device).repeat(len(tokens))
        columns, rows = self.place(tokens).float().flatten(0, 1).split(SIDE, -1)
        return functional.cross_entropy(columns, numbers % SIDE) + functional.cross_entropy(rows, numbers // SIDE)


def thing_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of things and of their hues; logits [..., THINGS + HUES], labels [..., 2]."""
    parts = zip(logits.split((len(THINGS), len(HUES)), -1), labels.unbind(-1), strict=True)
    return sum((entropy(each, wanted) for each, wanted in parts), logits.new_zeros(()))


def box_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of edges with the places about the right ones, where any are asked for.

    Args:
        logits: [..., EDGES * PLACES].
        labels: [..., EDGES], places; IGNORED where there is no box.
    """
    asked = labels[..., 0] != IGNORED
    if not asked.any():
        return logits.new_zeros(())
    away = torch.arange(PLACES, device=labels.device) - labels[asked][..., None].float()
    wanted = (-0.5 * (away / NEAR) ** 2).softmax(-1)
    return functional.cross_entropy(logits[asked].unflatten(-1, (EDGES, -1)).flatten(0, 1), wanted.flatten(0, 1))


def entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of things, of which nothing counts less: logits [..., THINGS] and labels [...], or IGNORED."""
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[0] = NOTHING_WEIGHT
    return functional.cross_entropy(logits.flatten(0, -2), labels.reshape(-1), weight, ignore_index=IGNORED)


def stack_labels(labels: Sequence[Labels]) -> dict[str, Any]:
    """The labels of all pictures of a batch, one after the other, as their tiles are."""
    parts = zip(LABELS, zip(*labels, strict=True), strict=True)
    return {name: torch.from_numpy(np.concatenate(part)) for name, part in parts}
