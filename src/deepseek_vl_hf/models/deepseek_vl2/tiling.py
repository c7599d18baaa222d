"""How a picture is cut into tiles, and how many tokens it takes: pure integer arithmetic (arXiv 2412.10302, section 2).

A picture is seen twice: as a whole in one tile, and enlarged or reduced to one of the candidate resolutions, cut into
tiles. Resolutions are (width, height) in pixels, grids are (columns, rows).
"""

from collections.abc import Sequence

from ...kinds import is_whole
from ...pictures.settings import LARGEST_SIDE

Pair = tuple[int, int]

# In the order of the published files, which decides between equals.
CANDIDATE_RESOLUTIONS: tuple[Pair, ...] = (
    *((384, 384), (384, 768), (768, 384), (384, 1152), (1152, 384), (384, 1536), (1536, 384), (768, 768)),
    *((384, 1920), (1920, 384), (384, 2304), (2304, 384), (768, 1152), (1152, 768), (384, 2688), (2688, 384)),
    *((384, 3072), (3072, 384), (768, 1536), (1536, 768), (384, 3456), (3456, 384), (1152, 1152)),
)
# With which the paper measures InfoVQA, whose pictures are long: all of up to 18 tiles (arXiv 2412.10302, section 5.1).
ENLARGED_RESOLUTIONS: tuple[Pair, ...] = tuple(
    (384 * columns, 384 * rows) for columns in range(1, 19) for rows in range(1, 19) if columns * rows <= 18
)
# A conversation with more pictures than this is not tiled, as the published models were trained.
MOST_TILED_IMAGES = 2


def check_candidates(candidates: Sequence[Sequence[int]], tile: int) -> None:
    """Raises ValueError unless there are candidates, all of them multiples of the tile."""
    if not isinstance(candidates, (list, tuple)):
        raise ValueError(f"candidate_resolutions is {candidates!r}; expected a list of pairs of width and height.")
    if not candidates:
        raise ValueError(
            f"candidate_resolutions is empty; expected pairs of width and height that {tile} divides, such as "
            f"[[{tile}, {tile}]]."
        )
    for candidate in candidates:
        pair = candidate if isinstance(candidate, (list, tuple)) else ()
        if len(pair) != 2 or not all(is_whole(edge, tile, LARGEST_SIDE) and edge % tile == 0 for edge in pair):
            raise ValueError(
                f"candidate_resolutions has {candidate!r}; expected a width and a height that are multiples of the "
                f"tile of {tile} pixels."
            )


def best_resolution(width: int, height: int, candidates: Sequence[Sequence[int]]) -> Pair:
    """The candidate that keeps most of a picture's pixels; among equals the one that wastes least, then the first.

    Args:
        width: of the picture in pixels.
        height: of the picture in pixels.
        candidates: resolutions to choose from.
    """

    def kept_and_wasted(candidate: Sequence[int]) -> Pair:
        scale = min(candidate[0] / width, candidate[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - candidate[0] * candidate[1]

    best = max(candidates, key=kept_and_wasted)  # the first of equals
    return best[0], best[1]


def tile_grid(width: int, height: int, candidates: Sequence[Sequence[int]], tile: int) -> Pair:
    """Columns and rows of the tiles that a picture is cut into, the view of the whole not counted."""
    best_width, best_height = best_resolution(width, height, candidates)
    return best_width // tile, best_height // tile


def num_tiles(columns: int, rows: int) -> int:
    """Tiles of a picture, the view of the whole included."""
    return 1 + columns * rows


def grid_side(tile: int, patch_size: int, downsample_ratio: int) -> int:
    """Tokens along the edge of a tile, after the projector: 384 pixels, 27 patches, 14 tokens."""
    return -(-(tile // patch_size) // downsample_ratio)


def num_image_tokens(columns: int, rows: int, side: int) -> int:
    """Places that a picture takes in the prompt.

    The whole, `side` x `side` tokens with a newline after each row; a separator; the tiles put together, with a
    newline after each row.

    Args:
        columns: of the grid of tiles.
        rows: of the grid of tiles.
        side: tokens along the edge of a tile.
    """
    return side * (side + 1) + 1 + rows * side * (columns * side + 1)
