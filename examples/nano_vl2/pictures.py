"""Pictures as plain data, in pixels: shapes, lines of text and rectangles on a canvas of any size.

The scenes of nano are squares; here they are drawn in any size, and boards of any number of tiles come beside them.
"""

import math
import random
from dataclasses import dataclass, replace

from PIL import Image, ImageChops, ImageDraw

from deepseek_vl_hf.models.deepseek_vl2.tiling import CANDIDATE_RESOLUTIONS, tile_grid
from deepseek_vl_hf.models.grounding import LARGEST_COORDINATE
from nano.drawing import MARGIN, Box, Part, draw_shape, draw_text, parts
from nano.scenes import COLORS, SIDE, AnyScene, Shape, Text

PUBLISHED_TILE = 384
TILE = 112  # pixels of a tile's side
# The published resolutions, in this model's tiles.
CANDIDATES = tuple(
    (width // PUBLISHED_TILE * TILE, height // PUBLISHED_TILE * TILE) for width, height in CANDIDATE_RESOLUTIONS
)
GRIDS = tuple((width // TILE, height // TILE) for width, height in CANDIDATES)
# Boxes are written to the fiftieth of a picture: the view of the whole has two pixels for it.
STEP = 20
COORDINATES = range(0, LARGEST_COORDINATE, STEP)

EDGES = (("left", "right"), ("top", "bottom"))  # of a Box, across and down
Corners = tuple[int, int, int, int]


@dataclass(frozen=True)
class Picture:
    """What is drawn on a canvas.

    Attributes:
        parts: shapes, texts and rectangles, in the order of drawing.
        width: in pixels.
        height: in pixels.
        background: 8-bit RGB.
    """

    parts: tuple[Part, ...]
    width: int
    height: int
    background: tuple[int, int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of the tiles that the image processor cuts it into."""
        return tile_grid(self.width, self.height, CANDIDATES, TILE)


def picture_of(scene: AnyScene, side: int) -> Picture:
    """A square scene of nano, drawn with so many pixels."""
    return enlarged(Picture(tuple(parts(scene)), SIDE, SIDE, scene.background), side / SIDE)


def enlarged(picture: Picture, factor: float) -> Picture:
    """The same, drawn with so many times as many pixels each way."""
    drawn = tuple(_scaled(part, factor) for part in picture.parts)
    return Picture(drawn, round(factor * picture.width), round(factor * picture.height), picture.background)


def widened(picture: Picture, width: int, height: int) -> Picture:
    """The same in the middle of a canvas of so many pixels, none less than before."""
    right, down = (width - picture.width) / 2, (height - picture.height) / 2
    return Picture(tuple(_moved(part, right, down) for part in picture.parts), width, height, picture.background)


def cropped(picture: Picture, rng: random.Random) -> Picture:
    """The same without some of what is empty at its edges; what is drawn keeps nano's margin."""
    blank = Image.new("RGB", (picture.width, picture.height), picture.background)
    left, top, right, bottom = ImageChops.difference(draw(picture), blank).getbbox() or (0, 0, *blank.size)
    margin = math.ceil(MARGIN * max(blank.size) / SIDE)
    room = (left, top, picture.width - right, picture.height - bottom)
    left, top, right, bottom = (rng.choice((0, rng.randint(0, max(0, empty - margin)))) for empty in room)
    parts = tuple(_moved(part, -left, -top) for part in picture.parts)
    return Picture(parts, picture.width - left - right, picture.height - top - bottom, picture.background)


def _moved(part: Part, right: float, down: float) -> Part:
    if isinstance(part, Box):
        moves = zip(EDGES, (right, down), strict=True)
        return replace(part, **{name: getattr(part, name) + move for pair, move in moves for name in pair})
    return replace(part, x=part.x + right, y=part.y + down)  # type: ignore[arg-type]


def _scaled(part: Part, scale: float) -> Part:
    if isinstance(part, Box):
        edges = {name: scale * getattr(part, name) for pair in EDGES for name in pair}
        return replace(part, **edges)
    return replace(part, x=scale * part.x, y=scale * part.y, size=max(1, round(scale * part.size)))  # type: ignore[arg-type]


def draw(picture: Picture) -> Image.Image:
    """The picture in 8-bit RGB."""
    image = Image.new("RGB", (picture.width, picture.height), picture.background)
    canvas = ImageDraw.Draw(image)
    for part in picture.parts:
        if isinstance(part, Shape):
            draw_shape(canvas, part, COLORS[part.color])
        elif isinstance(part, Text):
            draw_text(canvas, part)
        else:
            canvas.rectangle((part.left, part.top, part.right, part.bottom), fill=COLORS[part.color])
    return image


def corners(shape: Shape, width: int, height: int) -> Corners:
    """A shape's box in a picture of that size: coordinates as DeepSeek-VL2 writes them, rounded to STEP."""
    half = shape.size / 2
    left, right = (_coordinate(shape.x + side, width) for side in (-half, half))
    top, bottom = (_coordinate(shape.y + side, height) for side in (-half, half))
    return left, top, right, bottom


def _coordinate(place: float, size: int) -> int:
    rounded = STEP * round(min(1.0, max(0.0, place / size)) * LARGEST_COORDINATE / STEP)
    return min(rounded, LARGEST_COORDINATE - LARGEST_COORDINATE % STEP)


def random_size(rng: random.Random, grid: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture that is cut into that grid: a little smaller than the grid or just as large."""
    while True:
        width, height = (edge * TILE - rng.choice((0, rng.randint(0, 10))) for edge in grid)
        if tile_grid(width, height, CANDIDATES, TILE) == grid:
            return width, height
