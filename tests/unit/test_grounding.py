"""Places in answers, and drawing them."""

import numpy as np
import pytest
import torch
from PIL import Image

from deepseek_vl_hf.models.grounding import find_boxes
from deepseek_vl_hf.pictures.drawing import COLORS, draw_boxes, draw_tiles

SIZE = (500, 1000)  # height, width


def named(label, boxes):
    return f"<|ref|>{label}<|/ref|><|det|>{boxes}<|/det|>"


def test_boxes_are_in_pixels():
    found = find_boxes("There: " + named("a giraffe", "[[0, 0, 999, 999], [500, 250, 600, 260]]") + ".", SIZE)
    assert found.labels == ["a giraffe"]
    # As in the original: value / 999 * size, truncated.
    assert found.boxes == [[(0, 0, 1000, 500), (500, 125, 600, 130)]]


def test_several_things():
    found = find_boxes(named("猫", "[[1, 2, 3, 4]]") + " and " + named("dog", "[[5, 6, 7, 8]]"), SIZE)
    assert found.labels == ["猫", "dog"]
    assert [len(boxes) for boxes in found.boxes] == [1, 1]


@pytest.mark.parametrize(
    ("text", "labels", "count"),
    [
        ("nothing at all", [], 0),
        ("<|det|>[[1, 2, 3, 4]]<|/det|>", [""], 1),  # no name
        ("<|ref|>a cat<|/ref|><|det|>[[1, 2, 30, 40], [5, 6", ["a cat"], 1),  # cut off in the second box
        ("<|ref|>a cat<|/ref|><|det|>[[1, 2", [], 0),
        ("<|ref|>a cat", [], 0),
        ("<|ref|>a<|/ref|>", [], 0),
        (named("a", "[[1, 2, 3]]"), [], 0),  # a number is missing
        (named("a", "[[1, 2, 3, 1000]]"), [], 0),  # above 999
        (named("a", "[[30, 2, 3, 4]]"), [], 0),  # left of its left edge
        (named("a", "[[-1, 2, 3, 4]]"), [], 0),
        (named("a", "[[a, b, c, d]]"), [], 0),
        (named("a", "[[9, 9, 8, 8], [1, 1, 2, 2]]"), ["a"], 1),
        ("<|ref|>cat<|/ref|> sits by " + named("dog", "[[1, 2, 3, 4]]"), ["dog"], 1),
        ("<|ref|>cat<|det|>[[1, 2, 3, 4]]<|/det|> " + named("dog", "[[5, 6, 7, 8]]"), ["", "dog"], 2),
        ("<|det|>[[1, 1, 2, 2]]<|ref|>b<|/ref|><|det|>[[3, 3, 4, 4]]<|/det|>", ["", "b"], 2),  # one is not closed
    ],
)
def test_what_is_malformed_is_left_out(text, labels, count):
    found = find_boxes(text, SIZE)
    assert found.labels == labels
    assert sum(map(len, found.boxes)) == count


@pytest.mark.parametrize("end", ["<|/det|>", "<|/det|>.", "", "<|User|>: "])
def test_boxes_with_fractions(end):
    found = find_boxes(f"<|ref|>a<|/ref|><|det|>[[10.5, 20.0, 30., 40]]{end}", SIZE)
    assert (found.labels, found.boxes) == (["a"], [[(10, 10, 30, 20)]])
    # 998.5 / 999 * 1000 and * 500, truncated as integers are.
    assert find_boxes(named("a", "[[0, 0, 998.5, 998.5]]"), SIZE).boxes == [[(0, 0, 999, 499)]]
    assert find_boxes(named("a", "[[0, 0, 999.1, 5]]"), SIZE).boxes == []


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (named("a <| b", "[[1, 2, 3, 4]]"), "a <| b"),
        (named("<|x|> |>", "[[1, 2, 3, 4]]"), "<|x|> |>"),
        ("<|ref|>a<|/ref|>: <|det|>[[1, 2, 3, 4]]<|/det|>", "a"),
        ("<|ref|>狗<|/ref|>：\n<|det|>[[1, 2, 3, 4]]<|/det|>", "狗"),
        ("<|ref|>a<|User|>b<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>", ""),
    ],
)
def test_labels_hold_any_text_but_special_tokens(text, label):
    found = find_boxes(text, SIZE)
    assert (found.labels, found.boxes) == ([label], [[(1, 1, 3, 2)]])


def test_long_answers_of_odd_pieces_take_no_time():
    for piece in ("<|ref|>", "<|ref|>a<|/ref|>: ", "<|det|>[[1,", "<|ref|>a<|", "[[1.1.1.1,", ": " * 9):
        assert find_boxes(piece * 20_000, SIZE).boxes == []
    assert find_boxes(named("a", "[[" + "9" * 5000 + ", 2, 3, 4]]"), SIZE).boxes == []


@pytest.mark.parametrize("size", [SIZE, list(SIZE), np.array(SIZE), torch.tensor(SIZE), Image.new("RGB", SIZE[::-1])])
def test_sizes_and_pictures(vl2, size):
    expected = [[(0, 0, 1000, 500)]]
    answer = named("a", "[[0, 0, 999, 999]]")
    assert find_boxes(answer, size).boxes == expected
    assert vl2.processor.post_process_grounding([answer] * 2, [size] * 2)[1].boxes == expected


def test_one_picture_for_one_answer(vl2):
    (found,) = vl2.processor.post_process_grounding(named("a", "[[0, 0, 999, 999]]"), Image.new("RGB", (1000, 500)))
    assert found.boxes == [[(0, 0, 1000, 500)]]


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (np.zeros((5, 5, 3)), ValueError, r"an array of shape \[5, 5, 3\] as the size of a picture"),
        ((1, 2, 3), ValueError, r"Found \(1, 2, 3\) as the size of a picture; expected its \(height, width\)"),
        ((0, 5), ValueError, r"Found \(0, 5\)"),
        (("5", "5"), ValueError, "as the size of a picture"),
        ((float("nan"), 5), ValueError, "as the size of a picture"),
        ((float("inf"), 5), ValueError, "as the size of a picture"),
        ("a.png", TypeError, "Found a str as the size of a picture"),
        (7, TypeError, "Found a int as the size of a picture"),
        (None, TypeError, "Found a NoneType"),
    ],
)
def test_what_is_no_size(size, error, message):
    with pytest.raises(error, match=message):
        find_boxes("", size)


def test_answers_that_are_no_text(vl2):
    with pytest.raises(TypeError, match="Found a int as answer; expected a string"):
        vl2.processor.post_process_grounding([3], [SIZE])


def test_boxes_are_drawn():
    white = Image.new("RGB", (300, 200), "white")
    drawn = np.asarray(draw_boxes(white, ["cat", ""], [[(50, 60, 150, 160)], [(200, 20, 250, 70)]]))
    assert tuple(drawn[110, 50]) == tuple(drawn[160, 100]) == COLORS[0]
    assert tuple(drawn[45, 200]) == COLORS[1]
    assert tuple(drawn[110, 100]) == (255, 255, 255)
    assert np.asarray(white).min() == 255  # the picture itself stays as it is


def test_boxes_that_end_where_the_picture_does():
    drawn = np.asarray(draw_boxes(Image.new("RGB", (300, 200), "white"), [""], [[(0, 0, 300, 200)]]))
    for row, column in ((100, 0), (100, 299), (0, 150), (199, 150)):
        assert tuple(drawn[row, column]) == COLORS[0]


def test_labels_and_boxes_disagree():
    with pytest.raises(ValueError, match="2 labels and 1 lists of boxes"):
        draw_boxes(Image.new("RGB", (30, 30)), ["a", "b"], [[]])


def test_tiles_are_shown_side_by_side():
    tiles = torch.stack([torch.full((3, 20, 20), value) for value in (-1.0, 1.0, 0.0)])
    shown = np.asarray(draw_tiles(tiles, (2, 1), gap=4))
    assert shown.shape == (20, 20 + 2 * 24 + 4, 3)
    assert [int(shown[10, x, 0]) for x in (10, 38, 62)] == [0, 255, 128]


def test_tiles_and_grid_disagree():
    with pytest.raises(ValueError, match="3 tiles for a grid of 3 x 1; expected 4"):
        draw_tiles(torch.zeros(3, 3, 20, 20), (3, 1))
