"""Drawing what DeepSeek-VL2 sees and says: the tiles of a picture, and the places that an answer names."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from .opening import open_image, to_rgb

COLORS = ((230, 60, 50), (40, 110, 220), (30, 150, 70), (240, 140, 20), (140, 70, 180), (0, 150, 170))
LINES_PER_PICTURE = 250  # of which one is the width of a line, in parts of the longer edge


def draw_boxes(image: Any, labels: Sequence[str], boxes: Sequence[Sequence[Sequence[int]]]) -> Image.Image:
    """Draws the places that `post_process_grounding` found.

    Args:
        image: a picture in any form that the processors read.
        labels: name of each thing; Pillow's own font writes them, which has no Chinese characters.
        boxes: boxes (left, top, right, bottom) of each thing, in pixels.

    Returns:
        A copy in RGB, each thing in a color of its own.

    Raises:
        TypeError, ValueError: not a picture, or other numbers of labels than of lists of boxes.
    """
    if len(labels) != len(boxes):
        raise ValueError(f"Found {len(labels)} labels and {len(boxes)} lists of boxes; expected one list per label.")
    picture = to_rgb(open_image(image)).copy()
    draw = ImageDraw.Draw(picture)
    width = max(1, max(picture.size) // LINES_PER_PICTURE)
    font = ImageFont.load_default(max(10, 5 * width))
    for number, (label, places) in enumerate(zip(labels, boxes, strict=True)):
        color = COLORS[number % len(COLORS)]
        for left, top, right, bottom in places:
            # A box may end where the picture does, one pixel beyond its last one.
            edges = (left, top, min(right, picture.width - 1), min(bottom, picture.height - 1))
            draw.rectangle(edges, outline=color, width=width)
            if label:
                _draw_label(draw, label, (left, top), color, font)
    return picture


def _draw_label(draw: ImageDraw.ImageDraw, label: str, corner: tuple[int, int], color: Any, font: Any) -> None:
    """White text on the box's color, above the box or, at the upper edge of the picture, in it."""
    left, top = corner
    _, _, width, height = draw.textbbox((0, 0), label, font=font)
    start = top - height if top >= height else top
    draw.rectangle((left, start, left + width, start + height), fill=color)
    draw.text((left, start), label, fill="white", font=font)


def draw_tiles(pixel_values: Any, grid: Sequence[int], gap: int = 8, tile_pixel_values: Any = None) -> Image.Image:
    """Shows an image as the tower reads it: the view of the whole on the left, its tiles beside it.

    Args:
        pixel_values: [1 + columns * rows, 3, side, side], one image's tiles in [-1, 1], as the processor gives them.
        grid: the image's columns and rows.
        gap: pixels between tiles.
        tile_pixel_values: [columns * rows, 3, tile, tile], the tiles alone, where `pixel_values` holds the whole, as
            those of DeepSeek-OCR; the whole is drawn as large as a tile then.

    Returns:
        One picture, RGB.

    Raises:
        ValueError: another number of tiles than the grid has.
    """
    columns, rows = (int(number) for number in grid)
    tiles = [draw_view(tile) for tile in pixel_values]
    if tile_pixel_values is not None:
        tiles += map(draw_view, tile_pixel_values)
    if len(tiles) != 1 + columns * rows:
        raise ValueError(
            f"Found {len(tiles)} tiles for a grid of {columns} x {rows}; expected {1 + columns * rows}, the "
            "view of the whole first."
        )
    side = tiles[-1].width
    tiles[0] = tiles[0].resize((side, side))
    canvas = Image.new("RGB", (side + (columns * (side + gap)) + gap, rows * (side + gap) - gap), "white")
    canvas.paste(tiles[0], (0, 0))
    for number, tile in enumerate(tiles[1:]):
        row, column = divmod(number, columns)
        canvas.paste(tile, (side + 2 * gap + column * (side + gap), row * (side + gap)))
    return canvas


def draw_view(tile: Any) -> Image.Image:
    """Shows a single view: [3, side, side] in [-1, 1] -> RGB."""
    values = (torch.as_tensor(tile).float().cpu() * 127.5 + 127.5).round().clamp(0, 255)
    return Image.fromarray(values.byte().permute(1, 2, 0).contiguous().numpy())
