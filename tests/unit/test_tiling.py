"""How pictures are cut into tiles, and how many tokens they take."""

import random

import pytest

from deepseek_vl_hf.models.deepseek_vl2.tiling import (
    CANDIDATE_RESOLUTIONS,
    best_resolution,
    check_candidates,
    grid_side,
    num_image_tokens,
    num_tiles,
    tile_grid,
)


def slow_choice(width, height):
    """The rule step by step, as behavior of the original is written down."""
    best, most, least = None, -1, None
    for candidate in CANDIDATE_RESOLUTIONS:
        scale = min(candidate[0] / width, candidate[1] / height)
        scaled = int(width * scale) * int(height * scale)
        effective = min(scaled, width * height)
        wasted = candidate[0] * candidate[1] - effective
        if effective > most or (effective == most and wasted < least):
            best, most, least = candidate, effective, wasted
    return best


def test_the_choice_agrees_with_the_rule_for_thousands_of_sizes():
    rng = random.Random(0)
    sizes = [(rng.randint(1, 60), rng.randint(1, 60)) for _ in range(1000)]
    sizes += [(round(10 ** rng.uniform(0, 4)), round(10 ** rng.uniform(0, 4))) for _ in range(4000)]
    sizes += list(CANDIDATE_RESOLUTIONS)
    for width, height in sizes:
        assert best_resolution(width, height, CANDIDATE_RESOLUTIONS) == slow_choice(width, height), (width, height)


@pytest.mark.parametrize(
    ("size", "grid"),
    [((384, 384), (1, 1)), ((100, 90), (1, 1)), ((700, 350), (2, 1)), ((5014, 2004), (4, 2)), ((300, 4000), (1, 9))],
)
def test_grids(size, grid):
    assert tile_grid(*size, CANDIDATE_RESOLUTIONS, 384) == grid


def test_candidates_are_those_of_the_published_files():
    """Every grid of at most nine tiles."""
    assert len(CANDIDATE_RESOLUTIONS) == len(set(CANDIDATE_RESOLUTIONS)) == 23
    assert max(width * height for width, height in CANDIDATE_RESOLUTIONS) == 9 * 384**2
    for columns in range(1, 10):
        for rows in range(1, 9 // columns + 1):
            assert (columns * 384, rows * 384) in CANDIDATE_RESOLUTIONS


def test_tokens():
    assert grid_side(384, 14, 2) == 14
    assert num_image_tokens(1, 1, 14) == 210 + 1 + 210
    assert num_image_tokens(2, 1, 14) == 210 + 1 + 14 * 29
    assert num_image_tokens(3, 3, 14) == 210 + 1 + 42 * 43
    assert num_tiles(3, 2) == 7


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "candidate_resolutions is empty"),
        ([[384, 384], [384, 500]], r"\[384, 500\]; expected .* multiples of the tile of 384"),
        ([[0, 384]], "multiples of the tile"),
        ([[384]], "multiples of the tile"),
    ],
)
def test_bad_candidates(candidates, message):
    with pytest.raises(ValueError, match=message):
        check_candidates(candidates, 384)
