"""The pictures, questions and labels behind the nano-vl2 model."""

import random
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from deepseek_vl_hf.models.grounding import find_boxes
from nano.cells import COLUMNS, HUES, ROWS, THINGS, is_bar
from nano.drawing import Box
from nano.questions import KINDS as NANO_KINDS
from nano.scenes import COLORS, Bar, ChartScene, Shape, Text, random_scene
from nano.splits import is_held_out
from nano_vl2.boards import Board, Table, page, random_grid, shape_board, table, text_board
from nano_vl2.cells import EDGES, IGNORED, SIDE, label_views
from nano_vl2.dataset import (
    FIRST_SHARES,
    SHARES,
    LookingDataset,
    content,
    conversation,
    example,
    look,
    made_alike,
)
from nano_vl2.model import build_processor
from nano_vl2.pictures import CANDIDATES, GRIDS, TILE, Picture, corners, cropped, draw, picture_of, widened
from nano_vl2.questions import KINDS, about_several, about_shapes, about_texts, example_in_context

WHITE = (255, 255, 255)
RED_CIRCLE = Shape("circle", "red", 56, 50, 40)
BLUE_STAR = Shape("star", "blue", 160, 170, 60)
GREEN_CIRCLE = Shape("circle", "green", 170, 60, 50)
BOARD = Board((RED_CIRCLE, BLUE_STAR, GREEN_CIRCLE), (), 224, 224, WHITE)


@pytest.fixture(scope="module")
def processor():
    return build_processor(800)


@pytest.fixture(scope="module", params=["train", "held-out"])
def examples(request):
    return request.param, [example(request.param, number) for number in range(300)]


# Splits and rows


def strings(picture):
    return [part.text for part in picture.parts if isinstance(part, Text) and len(part.text) > 2]


def test_strings_belong_to_their_split(examples):
    split, rows = examples
    for row in rows:
        for string in (string for picture in row.pictures for string in strings(picture)):
            assert is_held_out(string) == (split == "held-out")


def test_boards_and_tables_belong_to_their_split():
    rng = random.Random(0)
    for split in ("train", "held-out"):
        for _ in range(20):
            assert is_held_out(shape_board(rng, split).key) == (split == "held-out")
            assert is_held_out(f"table {table(rng, split).rows}") == (split == "held-out")


def test_rows_are_the_same_every_time_and_of_all_kinds(examples):
    split, rows = examples
    assert rows[:40] == [example(split, number) for number in range(40)]
    assert {row.kind for row in rows} == set(SHARES)
    assert {turn.kind for row in rows for turn in row.turns} == {*KINDS, *NANO_KINDS}


def test_no_question_has_two_answers(examples):
    for row in examples[1]:
        answers = {}
        for turn in row.turns:
            assert turn.answer
            assert answers.setdefault(turn.question, turn.answer) == turn.answer


# Pictures


def test_grids_are_the_published_ones():
    assert len(GRIDS) == len(CANDIDATES) == 23
    assert max(columns * rows for columns, rows in GRIDS) == 9
    drawn = Counter(random_grid(random.Random(number)) for number in range(2000))
    assert set(drawn) == set(GRIDS)


def test_pictures_are_cut_into_the_grid_that_they_say(processor, examples):
    for row in examples[1][:80]:
        for picture in row.pictures:
            image = draw(picture)
            assert image.size == (picture.width, picture.height)
            assert tuple(processor.image_processor([image])["tile_grids"][0]) == picture.grid


def test_shapes_do_not_touch_and_lie_inside():
    rng = random.Random(0)
    for _ in range(60):
        board = shape_board(rng, "train")
        longer = max(board.width, board.height)
        for number, shape in enumerate(board.shapes):
            assert shape.size >= 0.11 * longer  # 12 pixels in the view of the whole
            assert shape.size / 2 < min(shape.x, shape.y, board.width - shape.x, board.height - shape.y)
            for other in board.shapes[:number]:
                assert max(abs(shape.x - other.x), abs(shape.y - other.y)) >= (shape.size + other.size) / 2


def test_text_that_only_tiles_show():
    rng = random.Random(0)
    for _ in range(60):
        board = text_board(rng, "train")
        for text in board.texts:
            assert text.size >= 13
            assert text.size * TILE / max(board.width, board.height) <= 8


# Boxes and questions


def test_boxes_are_those_of_the_shapes():
    answers = {turn.question: turn.answer for seed in range(200) for turn in about_shapes(BOARD, random.Random(seed))}
    assert answers["<|ref|>the star<|/ref|>"] == "<|ref|>the star<|/ref|><|det|>[[580, 620, 840, 900]]<|/det|>"
    found = find_boxes(answers["<|ref|>all circles<|/ref|>"], (224, 224))
    assert found.labels == ["all circles"]
    for shape, box in zip((RED_CIRCLE, GREEN_CIRCLE), found.boxes[0], strict=True):
        expected = [
            shape.x - shape.size / 2,
            shape.y - shape.size / 2,
            shape.x + shape.size / 2,
            shape.y + shape.size / 2,
        ]
        assert box == pytest.approx(expected, abs=3)
    assert answers["<|ref|>the red star<|/ref|>"] == "There is no red star."
    assert answers["<|ref|>all squares<|/ref|>"] == "There are no squares."
    assert "<|ref|>the circle<|/ref|>" not in answers
    assert answers["What is in <|det|>[[580, 620, 840, 900]]<|/det|>?"] == "a blue star"
    caption = find_boxes(answers["<|grounding|>Describe the picture."], (224, 224))
    assert caption.labels == ["a red circle", "a green circle", "a blue star"]
    assert answers["Describe the picture."] == ", ".join(caption.labels)
    assert answers["Where is the red circle relative to the green circle?"] == "left"


def test_no_answer_gives_another_box_away_but_at_times_the_last_one():
    """That is asked for everything, after some of it was found."""
    repeated = 0
    for seed in range(100):
        turns = about_shapes(BOARD, random.Random(seed))
        found = [
            [box for boxes in find_boxes(turn.answer + turn.question, (999, 999)).boxes for box in boxes]
            for turn in turns
        ]
        boxes = [box for each in found for box in each]
        if len({*boxes}) < len(boxes):
            repeated += 1
            assert turns[-1].kind == "find_all"
            assert len({*found[-1]}) == len(found[-1]) == len(BOARD.shapes)
            boxes = boxes[: -len(found[-1])]
        assert len({*boxes}) == len(boxes)
    assert 0 < repeated < 20


def test_boxes_at_the_edge_stay_inside():
    assert corners(Shape("square", "red", 104, 60, 40), 114, 1000) == (740, 40, 980, 80)


def test_lines_are_read_by_their_color():
    texts = (Text("OPEN", "red", "DejaVuSans", 10, 30, 14), Text("22", "blue", "DejaVuSans", 10, 80, 14))
    turns = about_texts(Board((), texts, 224, 224, WHITE), random.Random(0))
    assert [turn.answer for turn in turns] == ["OPEN", "22"]
    assert ["red" in turns[0].question, "blue" in turns[1].question] == [True, True]


def test_tables_are_written_as_markdown():
    drawn = Table((("A", "B"), ("12", "7")), Picture((), 112, 112, WHITE))
    assert drawn.markdown == "| A | B |\n| --- | --- |\n| 12 | 7 |"


def test_several_pictures():
    one, other = (Board(shapes, (), 112, 112, WHITE) for shapes in ((RED_CIRCLE,), (BLUE_STAR, GREEN_CIRCLE)))
    answers = {
        turn.question: turn.answer for seed in range(50) for turn in about_several([one, other], random.Random(seed))
    }
    assert answers["How many shapes are in image_2?"] == "2"
    assert answers["What color is the star in image_2?"] == "blue"
    assert answers["Which image shows a star?"] == "image_2"
    assert "Which image shows a circle?" not in answers  # both do
    said, turn = example_in_context([one, other, other], random.Random(0))
    assert (said, turn.answer) == (["1", "2"], "2")
    assert turn.about == (3, 4)  # shapes are counted on from one picture to the next


def test_examples_in_context_stand_behind_their_pictures():
    one = example("train", 0, kind="in_context")
    parts = content(one, one.turns[0])
    assert [part["type"] for part in parts] == ["image", "text", "text", "image", "text", "text", "image", "text"]
    said = [part["text"] for part in parts if part["type"] == "text"]
    assert len(said[1]) > 1
    assert said[-1] == "\n"
    assert conversation(one)[1] == {"role": "assistant", "content": one.turns[0].answer}


def test_charts_are_at_times_a_little_wider_or_taller_than_they_are_drawn():
    """What stands in them moves with them."""
    rows = [example("held-out", number, kind="chart") for number in range(40)]
    sizes = {(row.pictures[0].width, row.pictures[0].height) for row in rows}
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)
    assert any(width == height for width, height in sizes)
    assert all(min(size) >= 0.92 * max(size) - 1 for size in sizes)
    parts = (RED_CIRCLE, Text("OK", "red", "DejaVuSans", 10, 30, 14), Box("blue", 3, 5, 9, 11))
    square = Picture(parts, 200, 200, WHITE)
    circle, text, box = widened(square, 220, 210).parts
    assert (circle.x, circle.y, text.x, text.y) == (66, 55, 20, 35)
    assert (box.left, box.top, box.right, box.bottom) == (13, 10, 19, 16)


def test_in_training_there_is_more_to_count():
    """More than two things of a kind or a color."""
    shares = {}
    for split in ("train", "held-out"):
        rows = [example(split, number, kind="shapes") for number in range(500)]
        asked = [turn for row in rows for turn in row.turns if re.match(r"How many (?!shapes are )", turn.question)]
        shares[split] = sum(int(turn.answer) > 2 for turn in asked) / len(asked)
    assert shares["train"] > 1.2 * shares["held-out"] > 0


@pytest.mark.parametrize("kind", ["shapes", "text", "chart", "characters"])
def test_squares_come_in_any_size(kind):
    """Beside those that fill four tiles or nine, others that the processor has to bring to nine."""
    sides = [max(one.width, one.height) for one in (example("held-out", n, kind=kind).pictures[0] for n in range(200))]
    odd = [side for side in sides if side > 336 or 224 < side < 312]
    assert 0.05 < len(odd) / len(sides) < 0.3  # with a caption shapes fill four tiles
    assert max(odd) > 512


@pytest.mark.parametrize("side", [104, 512])
def test_what_is_cut_off_is_empty(side):
    chart = ChartScene(WHITE, (Bar("A", "red", 1), Bar("B", "blue", 20), Bar("C", "green", 11)), "OK", "DejaVuSans")
    picture = picture_of(chart, side)
    pixels = np.asarray(draw(picture))
    drawn = pixels[(pixels < 255).any(-1)]
    sizes = set()
    for seed in range(30):
        cut = cropped(picture, random.Random(seed))
        sizes.add((cut.width, cut.height))
        left = np.asarray(draw(cut))
        assert left.shape == (cut.height, cut.width, 3)
        assert np.array_equal(left[(left < 255).any(-1)], drawn)
    assert len(sizes) > 3
    assert (side, side) in sizes


@pytest.mark.parametrize("kind", ["tiles", "table"])
def test_text_and_tables_come_in_any_size(kind):
    """A quarter of them is drawn larger than the tiles that it is cut into."""
    pictures = [example("held-out", number, kind=kind).pictures[0] for number in range(120)]
    larger = [each for each in pictures if each.width > each.grid[0] * TILE or each.height > each.grid[1] * TILE]
    assert 0.05 < len(larger) / len(pictures) < 0.3


def test_axes_are_no_bars_in_any_size():
    chart = ChartScene(WHITE, (Bar("A", "red", 1), Bar("B", "blue", 20), Bar("C", "green", 11)), "OK", "DejaVuSans")
    for side in (104, 224, 336, 640):
        boxes = [part for part in picture_of(chart, side).parts if isinstance(part, Box)]
        assert [is_bar(box) for box in boxes] == [False, False, True, True, True]


def test_scenes_made_alike_belong_to_training():
    rng, made = random.Random(0), 0
    for _ in range(40):
        scene = random_scene(rng, "train", "shapes")
        alike = made_alike(scene, rng)
        assert not is_held_out(alike.key)
        assert [(shape.x, shape.y, shape.size) for shape in alike.shapes] == [
            (shape.x, shape.y, shape.size) for shape in scene.shapes
        ]
        made += alike != scene
    assert made > 10


# Labels of the views


def as_map(points, columns, rows):
    """[tiles, tokens, POINTS] of a view -> [rows * SIDE * ROWS, columns * SIDE * COLUMNS]."""
    grid = points.reshape(rows, columns, SIDE, SIDE, ROWS, COLUMNS).transpose(0, 2, 4, 1, 3, 5)
    return grid.reshape(rows * SIDE * ROWS, columns * SIDE * COLUMNS)


def test_labels_follow_each_view():
    picture = Picture((Shape("square", "blue", 150, 60, 60),), 200, 112, WHITE)  # 2 x 1 tiles, padded
    assert picture.grid == (2, 1)
    points, middles, mains, texts = label_views(picture)
    assert points.shape == (3, SIDE * SIDE, 2, ROWS * COLUMNS)
    assert middles.shape == (3, SIDE * SIDE, 4, 2)
    assert mains.shape == (3, SIDE * SIDE, 2 + EDGES)
    assert texts.shape == (3, SIDE * SIDE, 5)
    whole, tiles = as_map(points[:1, :, 0], 1, 1), as_map(points[1:, :, 0], 2, 1)
    square = THINGS.index("square")
    for shown, width, height in ((whole, 112, 112), (tiles, 224, 112)):
        scale = min(width / 200, height / 112)
        x, y = scale * 150 + (width - scale * 200) / 2, scale * 60 + (height - scale * 112) / 2
        assert shown[int(y * ROWS / 28), int(x * COLUMNS / 28)] == square
        assert np.mean(shown == square) == pytest.approx((scale * 53) ** 2 / (width * height), rel=0.3)


def test_labels_of_middles_and_boxes():
    _, middles, mains, _ = label_views(BOARD.picture)
    [place] = np.argwhere(middles[0, ..., 0] == THINGS.index("star")).tolist()
    assert place == [3 * SIDE + 2, 1]  # (80, 85) of 112 pixels: the third token of the last row, upper right patch
    assert middles[0, place[0], place[1]].tolist() == [THINGS.index("star"), HUES.index("blue")]
    assert (middles[1:, ..., 0] > 0).sum() == 3
    # 580, 620, 840, 900 in the answer.
    assert mains[0, place[0]].tolist() == [THINGS.index("star"), HUES.index("blue"), 29, 31, 42, 45]
    assert mains[0, 3 * SIDE].tolist() == [0, 0, *[IGNORED] * EDGES]  # the lower left corner is empty
    assert (mains[1:, :, 2:] == IGNORED).all()  # boxes are those of the whole
    assert {THINGS[kind] for kind in mains[1:, :, 0].flat} == {THINGS[0], "circle", "star"}


def test_characters_stand_in_the_token_that_has_their_middle():
    text = Text("MIX4", "red", "DejaVuSansMono", 4, 42, 20)  # 12 pixels each, from 4 on
    _, _, _, texts = label_views(Picture((text,), 112, 112, WHITE))
    names = [[THINGS[label] for label in token[1:] if label] for token in texts[0]]
    assert names[SIDE : SIDE + 3] == [["M", "I"], ["X", "4"], []]
    assert texts[0, SIDE, 0] == HUES.index("red")
    assert sum(map(len, names)) == 4
    _, _, _, texts = label_views(Picture((Text("MIX4", "red", "DejaVuSansMono", 4, 42, 16),), 224, 224, WHITE))
    assert (texts[0, 0] == IGNORED).all()  # 8 pixels in the whole
    assert (texts[1:, :, 1:] > 0).sum() == 4  # of any tile


def test_labels_fit_the_pixels(processor):
    """Where a label names a hue, the processor's pixels have about that color."""
    for number in range(12):
        one = example("train", number, kind="board")
        points, *_ = label_views(one.pictures[0])
        pixels = np.asarray(processor.image_processor([draw(one.pictures[0])])["pixel_values"])
        right = total = 0
        for view, token, point in np.argwhere(points[:, :, 1] % IGNORED > 0)[::3].tolist():
            row, column = divmod(token, SIDE)
            y = 28 * row + int((point // COLUMNS + 0.5) * 28 / ROWS)
            x = 28 * column + int((point % COLUMNS + 0.5) * 28 / COLUMNS)
            color = np.asarray(COLORS[HUES[points[view, token, 1, point]]]) / 127.5 - 1
            right += np.abs(pixels[view, :, y, x] - color).max() < 0.3
            total += 1
        assert right >= 0.8 * total > 0  # the others lie at an edge


# Stages


def test_looking_leaves_out_the_whole_of_pages_and_keeps_few_views():
    for number in range(0, 96_000, 4800):
        picture, views = look(number)
        assert 1 <= len(views) <= 4
        assert max(views) <= picture.grid[0] * picture.grid[1]
        assert (0 in views) == (not all(isinstance(part, Text) for part in picture.parts) or len(picture.parts) <= 5)
    boards = [views for _, views in map(look, range(96_000, 96_100)) if views == [0]]
    assert 40 < len(boards) < 75  # of these nothing but the whole
    row = LookingDataset(10)[3]
    assert isinstance(row["picture"], Image.Image)
    assert len(row["labels"][0][0]) == len(row["views"])


def test_pages_begin_in_one_style():
    first = page(random.Random(0), "train", variety=0.0)
    assert len({(text.color, text.font, text.size) for text in first.parts}) == 1
    later = page(random.Random(0), "train", variety=1.0)
    assert len({(text.color, text.font, text.size) for text in later.parts}) > 3


def test_charts_come_later():
    first, later = (Counter(example("train", number, mixing=mixing).kind for number in range(400)) for mixing in (0, 1))
    assert 2 * first["chart"] < later["chart"]
    assert sum(FIRST_SHARES.values()) == pytest.approx(1)
    assert sum(SHARES.values()) == pytest.approx(1)


def test_training_begins_with_one_thing_in_one_tile():
    first = [example("train", number, difficulty=0.0) for number in range(200)]
    assert {row.kind for row in first} == set(SHARES)
    assert {picture.grid for row in first for picture in row.pictures} == {(1, 1)}
    assert {len(picture.parts) for row in first for picture in row.pictures} == {1}
    later = [example("train", number, difficulty=0.5) for number in range(200)]
    assert {picture.grid for row in later for picture in row.pictures} == {(1, 1)}
    assert max(len(picture.parts) for row in later for picture in row.pictures) == 5
