"""Boards of one to nine tiles with scattered shapes or lines of text that only tiles show; pages, and tables."""

import random
from dataclasses import dataclass

from nano.drawing import Box, Part, font
from nano.scenes import COLORS, FONTS, SHAPES, TEXT_COLORS, Shape, Text
from nano.splits import belongs_to
from nano.strings import random_string

from .pictures import GRIDS, TILE, Picture, random_size

# Of shapes, in shares of the picture's longer side: so large that the view of the whole shows them.
SMALLEST_SHAPE, LARGEST_SHAPE = 0.12, 0.3
CELLS_PER_SIDE = 5  # of the picture's longer side; not more than one thing stands in a cell of that size
LONGEST_GROUNDED = 3  # sides of a picture in which things are to be found differ at most so many times
SMALLEST_TEXT, LARGEST_TEXT = 13, 26  # font sizes in pixels
# Of the font size of text that only tiles show, in shares of the picture's longer side: 8 pixels in the whole view.
LARGEST_TILE_TEXT = 0.07
# Weights of the numbers of tiles: few are more frequent, because they take less time.
WEIGHTS = {1: 3, 2: 4, 3: 3, 4: 6, 5: 1, 6: 4, 7: 0.5, 8: 1, 9: 1.5}
MOST_SHAPES, MOST_LINES = 5, 4  # on a board


@dataclass(frozen=True)
class Board:
    """Shapes that do not overlap, or lines of text in colors of their own, on a canvas of any form."""

    shapes: tuple[Shape, ...]
    texts: tuple[Text, ...]
    width: int
    height: int
    background: tuple[int, int, int]

    @property
    def picture(self) -> Picture:
        """What is drawn."""
        return Picture((*self.shapes, *self.texts), self.width, self.height, self.background)

    @property
    def key(self) -> str:
        """What stands in which cell."""
        cell = max(self.width, self.height) / CELLS_PER_SIDE
        places = sorted((shape.shape, shape.color, int(shape.x / cell), int(shape.y / cell)) for shape in self.shapes)
        return f"board {places} {[text.text for text in self.texts]}"


@dataclass(frozen=True)
class Table:
    """Cells with strings, a line below the heading and between the columns."""

    rows: tuple[tuple[str, ...], ...]
    picture: Picture

    @property
    def markdown(self) -> str:
        """The table as Markdown; the first row is its heading."""
        lines = [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([lines[0], "| " + " | ".join("---" for _ in self.rows[0]) + " |", *lines[1:]])


def random_grid(rng: random.Random, longest: int = 9, fewest: int = 1, most: int = 9) -> tuple[int, int]:
    """Columns and rows of a published grid.

    Args:
        rng: source of randomness.
        longest: the longer side may have so many times the shorter one's tiles.
        fewest: tiles.
        most: tiles.
    """
    grids = [grid for grid in GRIDS if max(grid) <= longest * min(grid) and fewest <= grid[0] * grid[1] <= most]
    alike = {tiles: sum(columns * rows == tiles for columns, rows in grids) for tiles in WEIGHTS}
    weights = [WEIGHTS[columns * rows] / alike[columns * rows] for columns, rows in grids]
    return rng.choices(grids, weights)[0]


def background(rng: random.Random) -> tuple[int, int, int]:
    """A light color."""
    return rng.randint(225, 255), rng.randint(225, 255), rng.randint(225, 255)


def shape_board(rng: random.Random, split: str, most: int = MOST_SHAPES, tiles: int = 9) -> Board:
    """Up to `most` shapes in up to `tiles` tiles, none below the smallest that the view of the whole can show."""
    while True:
        width, height = random_size(rng, random_grid(rng, longest=LONGEST_GROUNDED, most=tiles))
        longer = max(width, height)
        columns, rows = (max(1, int(side * CELLS_PER_SIDE / longer)) for side in (width, height))
        kinds, colors = rng.sample(SHAPES, rng.randint(2, 5)), rng.sample(tuple(COLORS), rng.randint(2, 5))
        shapes: list[Shape] = []
        for _ in range(4 * rng.randint(1, most)):
            size = round(longer * rng.uniform(SMALLEST_SHAPE, LARGEST_SHAPE))
            if size + 4 >= min(width, height):
                continue
            x, y = (rng.randint(size // 2 + 1, side - size // 2 - 1) for side in (width, height))
            if not any(_near(x, y, size, other, longer) for other in shapes) and len(shapes) < most:
                shapes.append(Shape(rng.choice(kinds), rng.choice(colors), x, y, size))
            if len(shapes) >= min(most, columns * rows):
                break
        board = Board(tuple(shapes), (), width, height, background(rng))
        if shapes and belongs_to(board.key, split):
            return board


def _near(x: int, y: int, size: int, other: Shape, longer: int) -> bool:
    apart = max(abs(x - other.x), abs(y - other.y))
    return apart < max((size + other.size) / 2 + 2, longer / CELLS_PER_SIDE * 0.8)


def text_board(rng: random.Random, split: str) -> Board:
    """Up to `MOST_LINES` lines of text that the view of the whole is too coarse to show."""
    width, height = random_size(rng, random_grid(rng, fewest=2))
    largest = min(LARGEST_TEXT, int(LARGEST_TILE_TEXT * max(width, height)))
    texts: list[Text] = []
    for color in rng.sample(TEXT_COLORS, rng.randint(1, min(MOST_LINES, width * height // TILE**2 + 1))):
        size = round(SMALLEST_TEXT * (largest / SMALLEST_TEXT) ** rng.random())
        text = _placed(rng, random_string(rng, split), color, size, (width, height), texts)
        if text is not None:
            texts.append(text)
    texts.sort(key=lambda text: text.y)
    return Board((), tuple(texts), width, height, background(rng))


def _placed(
    rng: random.Random, string: str, color: str, size: int, canvas: tuple[int, int], others: list[Text]
) -> Text | None:
    """A line of text that no edge of a tile cuts and that keeps clear of the others; None where that is hard to find.

    The edges lie elsewhere where a picture is enlarged or padded. Text that is cut a little can still be read.
    """
    width, height = canvas
    name = rng.choice(FONTS)
    length = round(font(name, size).getlength(string))
    for _ in range(40):
        x, y = rng.randint(3, max(3, width - length - 3)), rng.randint(size, height - size)
        inside = x // TILE == (x + length) // TILE and (y - size // 2) // TILE == (y + size // 2) // TILE
        if inside and all(abs(y - other.y) > (size + other.size) * 0.7 for other in others):
            return Text(string, color, name, x, y, size)
    return None


def page(rng: random.Random, split: str, variety: float = 1.0) -> Picture:
    """Lines of text over the whole picture.

    Args:
        rng: source of randomness.
        split: "train" or "held-out".
        variety: 0 to 1, from black text in one font and size to all of them; characters are learned far sooner one
            style after the other.
    """
    width, height = random_size(rng, random_grid(rng, longest=4, fewest=2))
    middle = (SMALLEST_TEXT * LARGEST_TEXT) ** 0.5
    smallest, largest = (middle * (size / middle) ** variety for size in (SMALLEST_TEXT, LARGEST_TEXT))
    colors = TEXT_COLORS[: 1 + round(variety * (len(TEXT_COLORS) - 1))]
    fonts = FONTS[: 1 + round(variety * (len(FONTS) - 1))]
    texts: list[Text] = []
    y = float(rng.randint(2, 10))
    while True:
        size = round(smallest * (largest / smallest) ** rng.random())
        step = size * rng.uniform(1.1, 1.7)
        if y + step > height:
            return Picture(tuple(texts), width, height, background(rng))
        x, name = rng.randint(2, 30), rng.choice(fonts)
        while x < width - 2 * size:
            string = random_string(rng, split)
            texts.append(Text(string, rng.choice(colors), name, x, round(y + step / 2), size))
            x += round(font(name, size).getlength(string)) + size
        y += step


def table(rng: random.Random, split: str) -> Table:
    """Two or three columns, a heading and one to three rows."""
    while True:
        columns, lines = rng.randint(2, 3), rng.randint(2, 4)
        heading = tuple(random_string(rng, split, longest=3) for _ in range(columns))
        rows = (heading, *(tuple(_entry(rng, split) for _ in range(columns)) for _ in range(lines - 1)))
        if belongs_to(f"table {rows}", split):
            return Table(rows, _table_picture(rng, rows))


def _entry(rng: random.Random, split: str) -> str:
    return str(rng.randint(1, 99)) if rng.random() < 0.7 else random_string(rng, split, longest=3)


def _table_picture(rng: random.Random, rows: tuple[tuple[str, ...], ...]) -> Picture:
    columns = len(rows[0])
    grid = rng.choice([(2, 1), (2, 2)]) if len(rows) <= 3 else (2, 2)
    width, height = random_size(rng, grid)
    size, name = rng.randint(14, 17), rng.choice(FONTS)
    high = (height - 12) / len(rows)
    step = min(high, rng.uniform(24, 40))
    top, left, across = rng.uniform(6, max(6.0, height - 6 - step * len(rows))), 6, (width - 12) / columns
    drawn: list[Part] = [Box("black", left, top + step - 1, width - left, top + step)]
    drawn += [
        Box("black", left + across * column - 1, top, left + across * column, top + step * len(rows))
        for column in range(1, columns)
    ]
    for row, strings in enumerate(rows):
        for column, string in enumerate(strings):
            x, y = round(left + across * (column + 0.5)), round(top + step * (row + 0.5))
            drawn.append(Text(string, "black", name, x, y, size, centered=True))
    return Picture(tuple(drawn), width, height, background(rng))
