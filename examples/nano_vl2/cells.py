"""What stands where in each view of a picture, as labels for its tokens: a second task for training.

The same idea as in `nano.cells`, for views: a linear layer on a token says what is at each of `POINTS` points of its
part of the view, and in which column and row of the view it is. Of each patch of it, it says which shape has its middle
there or which bar its top, and in the view of the whole, between which hundredths of the picture a shape's box lies.
Edges are classes instead of numbers, which are learned far sooner. The layer is thrown away when training is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional

from nano.cells import COLUMNS, HUES, NOTHING_WEIGHT, POINTS, ROWS, THINGS, character_boxes, draw_labels, is_bar
from nano.drawing import Box
from nano.scenes import Shape, Text

from .pictures import STEP, TILE, Picture, corners

PATCH = 14
SIDE = TILE // PATCH // 2  # tokens along the edge of a view
PATCHES = 4  # per token
EDGES = 1000 // STEP  # classes of the edge of a box
SOFTNESS = 2  # classes beside the right edge that count as nearly right
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


def label_views(picture: Picture, tiled: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all views of a picture: the whole, then the tiles row by row.

    Args:
        picture: what was drawn.
        tiled: whether it is cut into tiles.

    Returns:
        points: uint8 [views, SIDE * SIDE, 2, POINTS], indices into THINGS and HUES.
        middles: uint8 [views, SIDE * SIDE, PATCHES, 6], a thing, its hue, and the edges left, top, right, bottom in
            hundredths of the picture. IGNORED stands for what is not asked.
    """
    maps = _maps(picture)
    points: list[np.ndarray] = []
    middles: list[np.ndarray] = []
    for view in (_view(picture, (1, 1)), _view(picture, picture.grid if tiled else (1, 1))):
        whole = not points
        points.append(_points(maps, view, picture))
        middles.append(_middles(picture, view, whole))
    return np.concatenate(points), np.concatenate(middles)


def _view(picture: Picture, grid: tuple[int, int]) -> _View:
    columns, rows = grid
    scale = min(columns * TILE / picture.width, rows * TILE / picture.height)
    across = (columns * TILE - scale * picture.width) / 2
    down = (rows * TILE - scale * picture.height) / 2
    return _View(scale, across, down, columns, rows)


def _maps(picture: Picture) -> np.ndarray:
    """uint8 [3, height, width]: thing and hue at each pixel, and the font size of the text there."""
    images = [Image.new("L", (picture.width, picture.height), 0) for _ in range(3)]
    things, hues, sizes = (ImageDraw.Draw(each) for each in images)
    for part in picture.parts:
        draw_labels(things, hues, part)
        if isinstance(part, Text):
            for _, box in character_boxes(part):
                sizes.rectangle(box, fill=part.size)
    return np.stack([np.asarray(each) for each in images])


def _points(maps: np.ndarray, view: _View, picture: Picture) -> np.ndarray:
    """uint8 [tiles, tokens, 2, POINTS] of the tiles of a view."""
    x, inside_x = _places(
        view.columns * SIDE * COLUMNS, TILE / (SIDE * COLUMNS), view.scale, view.across, picture.width
    )
    y, inside_y = _places(view.rows * SIDE * ROWS, TILE / (SIDE * ROWS), view.scale, view.down, picture.height)
    things, hues, sizes = maps[:, y[:, None], x] * (inside_y[:, None] & inside_x)
    unreadable = (sizes > 0) & (sizes * view.scale < READABLE)
    labels = np.stack([np.where(unreadable, IGNORED, each) for each in (things, hues)]).astype(np.uint8)
    # [2, rows, SIDE, ROWS, columns, SIDE, COLUMNS] -> [rows, columns, SIDE, SIDE, 2, ROWS, COLUMNS]
    labels = labels.reshape(2, view.rows, SIDE, ROWS, view.columns, SIDE, COLUMNS).transpose(1, 4, 2, 5, 0, 3, 6)
    return labels.reshape(view.rows * view.columns, SIDE * SIDE, 2, POINTS)


def _places(count: int, step: float, scale: float, shift: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in the picture each point lies, and whether it lies in it."""
    places = np.floor(((np.arange(count) + 0.5) * step - shift) / scale).astype(int)
    return places.clip(0, size - 1), (places >= 0) & (places < size)


def _middles(picture: Picture, view: _View, whole: bool) -> np.ndarray:
    """uint8 [tiles, tokens, PATCHES, 6] of the tiles of a view."""
    labels = np.full((view.rows * SIDE * 2, view.columns * SIDE * 2, 6), IGNORED, np.uint8)
    labels[..., :2] = 0
    for part in picture.parts:
        if isinstance(part, Shape):
            name, x, y = part.shape, float(part.x), float(part.y)
        elif isinstance(part, Box) and is_bar(part):
            name, x, y = "bar", (part.left + part.right) / 2, part.top
        else:
            continue
        column, row = (int((view.scale * at + shift) / PATCH) for at, shift in ((x, view.across), (y, view.down)))
        labels[row, column, :2] = THINGS.index(name), HUES.index(part.color)
        if whole and isinstance(part, Shape):
            labels[row, column, 2:] = [edge // STEP for edge in corners(part, picture.width, picture.height)]
    # [rows, SIDE, 2, columns, SIDE, 2, 6] -> [rows, columns, SIDE, SIDE, 2, 2, 6]
    labels = labels.reshape(view.rows, SIDE, 2, view.columns, SIDE, 2, 6).transpose(0, 3, 1, 4, 2, 5, 6)
    return labels.reshape(view.rows * view.columns, SIDE * SIDE, PATCHES, 6)


class CellHead(nn.Module):
    """Says what `label_views` says, from the projector's tokens [views, tokens, hidden].

    Args:
        hidden_size: width of the tokens.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.points = nn.Linear(hidden_size, POINTS * (len(THINGS) + len(HUES)))
        self.middles = nn.Linear(hidden_size, PATCHES * (len(THINGS) + len(HUES)))
        self.edges = nn.Linear(hidden_size, PATCHES * 4 * EDGES)
        self.place = nn.Linear(hidden_size, 2 * SIDE)

    def losses(self, tokens: torch.Tensor, points: torch.Tensor, middles: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross entropy of points, middles, edges, and of columns and rows; labels as `label_views` gives them."""
        found = self.points(tokens).float().unflatten(-1, (POINTS, -1)).split((len(THINGS), len(HUES)), -1)
        at_points = [_entropy(each, labels) for each, labels in zip(found, points.long().unbind(2), strict=True)]
        found = self.middles(tokens).float().unflatten(-1, (PATCHES, -1)).split((len(THINGS), len(HUES)), -1)
        in_middles = [
            _entropy(each, labels) for each, labels in zip(found, middles[..., :2].long().unbind(-1), strict=True)
        ]
        return {
            "points": sum(at_points, tokens.new_zeros(())),
            "middles": sum(in_middles, tokens.new_zeros(())),
            "edges": self._of_edges(tokens, middles[..., 2:]),
            "place": self._of_places(tokens),
        }

    def _of_edges(self, tokens: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Of the tokens in which a shape has its middle alone, because the layer is wide."""
        chosen = (edges != IGNORED).flatten(2).any(-1)
        if not chosen.any():
            return tokens.new_zeros(())
        logits = self.edges(tokens[chosen]).float().unflatten(-1, (-1, EDGES)).flatten(0, 1)
        wanted = edges[chosen].flatten().long()
        asked = wanted != IGNORED
        return functional.cross_entropy(logits[asked], _near(wanted[asked]))

    def _of_places(self, tokens: torch.Tensor) -> torch.Tensor:
        numbers = torch.arange(SIDE**2, device=tokens.device).repeat(len(tokens))
        columns, rows = self.place(tokens).float().flatten(0, 1).split(SIDE, -1)
        return functional.cross_entropy(columns, numbers % SIDE) + functional.cross_entropy(rows, numbers // SIDE)


def _near(edges: torch.Tensor) -> torch.Tensor:
    """[edges] -> shares [edges, EDGES]: most on the right class, the rest on its neighbors, so that near is better."""
    apart = (edges[:, None] - torch.arange(EDGES, device=edges.device)).abs()
    shares = torch.where(apart > SOFTNESS, 0.0, 0.5**apart)
    return shares / shares.sum(-1, keepdim=True)


def _entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[0] = NOTHING_WEIGHT
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), weight, ignore_index=IGNORED)


def stack_labels(labels: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The labels of all pictures of a batch, one behind the other, as their tiles are."""
    points, middles = zip(*labels, strict=True)
    return {"points": torch.from_numpy(np.concatenate(points)), "middles": torch.from_numpy(np.concatenate(middles))}
