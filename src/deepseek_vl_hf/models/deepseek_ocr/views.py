"""How a picture is seen, and how many tokens it takes: pure integer arithmetic (arXiv 2510.18234, section 3.2).

A mode says how large the view of the whole is, and whether a picture that is larger than a tile is cut into tiles
beside it. Grids are (columns, rows); (1, 1) stands for a picture without tiles, because no grid has one tile alone.
"""

from dataclasses import dataclass

Pair = tuple[int, int]

PATCH = 16  # pixels along the edge of one of SAM's patches
REDUCTION = 4  # of its grid, by two convolutions of stride 2
GRANULE = PATCH * REDUCTION  # pixels along the edge of a token
FEWEST_TILES, MOST_TILES = 2, 9
# Up to this side a whole picture is squashed into the square; larger views keep its proportions and are padded.
LARGEST_SQUASHED = 640
NO_TILES: Pair = (1, 1)


@dataclass(frozen=True)
class Mode:
    """One way to see a picture.

    Attributes:
        side: of the view of the whole, in pixels.
        tile: side of a tile in pixels; None for no tiles.
    """

    side: int
    tile: int | None = None

    @property
    def squashes(self) -> bool:
        """Whether the view of the whole gives up the picture's proportions."""
        return self.tile is None and self.side <= LARGEST_SQUASHED


# The paper's (section 3.2.2). The released code's own Gundam-M lays out more places than it has features.
MODES: dict[str, Mode] = {
    "tiny": Mode(512),
    "small": Mode(640),
    "base": Mode(1024),
    "large": Mode(1280),
    "gundam": Mode(1024, 640),
    "gundam-m": Mode(1280, 1024),
}
DEFAULT_MODE = "gundam"


def mode_of(name: str) -> Mode:
    """The mode of a name.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(name, str) or name not in MODES:
        raise ValueError(f"mode is {name!r}; expected {', '.join(MODES)}.")
    return MODES[name]


def tile_grid(width: int, height: int, tile: int | None) -> Pair:
    """Columns and rows of the tiles that a picture is cut into.

    The grid whose proportions come closest to the picture's; among equals a later one, of more tiles, only if the
    picture has more than half of its pixels.

    Args:
        width: of the picture in pixels.
        height: of the picture in pixels.
        tile: side of a tile in pixels; None for no tiles.
    """
    if tile is None or (width <= tile and height <= tile):
        return NO_TILES
    best, smallest = NO_TILES, float("inf")
    for columns, rows in _GRIDS:
        difference = abs(width / height - columns / rows)
        large_enough = width * height > 0.5 * tile * tile * columns * rows
        if difference < smallest or (difference == smallest and large_enough):
            best, smallest = (columns, rows), difference
    return best


_GRIDS = sorted(
    (
        (columns, rows)
        for columns in range(1, MOST_TILES + 1)
        for rows in range(1, MOST_TILES + 1)
        if FEWEST_TILES <= columns * rows <= MOST_TILES
    ),
    key=lambda grid: grid[0] * grid[1],
)


def num_tiles(columns: int, rows: int) -> int:
    """Tiles of a picture, without the view of the whole."""
    return 0 if (columns, rows) == NO_TILES else columns * rows


def tokens_per_side(side: int) -> int:
    """Tokens along the edge of a view of so many pixels."""
    return -(-(side // PATCH) // REDUCTION)


def num_image_tokens(grid: Pair, side: int, tile: int | None) -> int:
    """Places that a picture takes in the prompt.

    The tiles put together, with a newline after each row; the whole, likewise; a separator.

    Args:
        grid: columns and rows of its tiles.
        side: of the view of the whole, in pixels.
        tile: side of a tile in pixels.
    """
    whole = tokens_per_side(side)
    tokens = whole * (whole + 1) + 1
    if grid == NO_TILES or tile is None:
        return tokens
    columns, rows = grid
    per_side = tokens_per_side(tile)
    return tokens + rows * per_side * (columns * per_side + 1)
