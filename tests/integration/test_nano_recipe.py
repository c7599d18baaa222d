"""The scenes, questions and tokenizer behind the nano model."""

import json
import random
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from make_pictures import PICTURES
from nano.cells import COLUMNS, HUES, ROWS, THINGS, label_points
from nano.dataset import (
    LOOKING_PICTURES,
    VARIETY_PICTURES,
    SceneDataset,
    conversation,
    example,
    look,
    tokenizer_texts,
)
from nano.drawing import View, draw_scene
from nano.questions import CHINESE, KINDS, ask, direction, place_of
from nano.scenes import (
    COLORS,
    FONTS,
    MIDDLE_TEXT,
    SCENE_KINDS,
    SHAPES,
    SIDE,
    SMALLEST_TEXT,
    TEXT_COLORS,
    Bar,
    CharacterScene,
    ChartScene,
    PageScene,
    Shape,
    ShapeScene,
    Text,
    TextScene,
    random_scene,
)
from nano.splits import belongs_to, is_held_out
from nano.strings import random_string
from nano.tokenizer import train_tokenizer

EXAMPLES = 400


@pytest.fixture(scope="module", params=["train", "held-out"])
def examples(request):
    return request.param, [example(request.param, number) for number in range(EXAMPLES)]


def strings(scene):
    if isinstance(scene, ShapeScene):
        return [scene.caption.text] if scene.caption else []
    if isinstance(scene, CharacterScene):
        return []  # single characters belong to both
    if isinstance(scene, TextScene):
        return [text.text for text in scene.texts]
    if isinstance(scene, PageScene):
        return [text.text for line in scene.lines for text in line]
    return [scene.title, *(bar.label for bar in scene.bars if len(bar.label) > 1)]


# Splits


def test_scenes_and_strings_belong_to_their_split(examples):
    split, rows = examples
    for row in rows:
        if not isinstance(row.scene, TextScene):
            assert is_held_out(row.scene.key) == (split == "held-out")
        for string in strings(row.scene):
            assert is_held_out(string) == (split == "held-out")


def test_the_splits_share_nothing(examples):
    split, rows = examples
    other = [example("held-out" if split == "train" else "train", number) for number in range(EXAMPLES)]
    assert not {row.scene.key for row in rows} & {row.scene.key for row in other}
    assert not {text for row in rows for text in strings(row.scene)} & {
        text for row in other for text in strings(row.scene)
    }


def test_easy_scenes_keep_the_split():
    rng = random.Random(0)
    for _ in range(300):
        for string in strings(random_scene(rng, "train", difficulty=0.0)):
            assert not is_held_out(string)


def test_pictures_without_questions_keep_the_split():
    for number in range(0, LOOKING_PICTURES, 700):
        for string in strings(look(number).scene):
            assert not is_held_out(string)


def test_held_out_strings_have_three_to_five_characters():
    rng = random.Random(0)
    lengths = Counter(len(random_string(rng, "held-out")) for _ in range(300))
    assert set(lengths) == {3, 4, 5}


def test_an_unknown_split():
    with pytest.raises(ValueError, match="expected 'train' or 'held-out'"):
        belongs_to("A", "test")


def test_the_example_pictures_are_held_out():
    for scene, _ in PICTURES.values():
        assert isinstance(scene, TextScene) or is_held_out(scene.key)
        assert all(is_held_out(string) for string in strings(scene))


def test_rows_are_the_same_every_time():
    for number in range(20):
        one, other = example("train", number), example("train", number)
        assert one == other
        assert draw_scene(one.scene, one.view).tobytes() == draw_scene(other.scene, other.view).tobytes()


# Pictures


def test_pictures_show_what_they_hold():
    shapes = (Shape("circle", "red", 60, 60, 40), Shape("square", "blue", 200, 190, 40))
    pixels = np.asarray(draw_scene(ShapeScene((255, 255, 255), shapes, None)))
    assert tuple(pixels[60, 60]) == COLORS["red"]
    assert tuple(pixels[190, 200]) == COLORS["blue"]
    assert tuple(pixels[5, 5]) == (255, 255, 255)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_fills_its_middle_and_not_its_corner(shape):
    pixels = np.asarray(draw_scene(ShapeScene((255, 255, 255), (Shape(shape, "green", 128, 128, 100),), None)))
    assert tuple(pixels[128, 128]) == COLORS["green"]
    assert (tuple(pixels[85, 85]) == COLORS["green"]) == (shape == "square")


def test_an_unknown_shape():
    with pytest.raises(ValueError, match="'blob'; expected circle"):
        draw_scene(ShapeScene((255, 255, 255), (Shape("blob", "green", 128, 128, 100),), None))


def test_views_scale_and_crop():
    scene = TextScene((255, 255, 255), (Text("AB", "red", "DejaVuSans", 100, 128, 20),))
    assert draw_scene(scene).size == (SIDE, SIDE)
    assert draw_scene(scene, View(top=28, bottom=228, scale=1.5)).size == (384, 300)


def test_views_never_cut_off_what_is_drawn(examples):
    for row in examples[1]:
        whole, seen = draw_scene(row.scene), draw_scene(row.scene, View(*row.view.box))
        background = row.scene.background
        assert np.any(np.asarray(whole) != background, -1).sum() == np.any(np.asarray(seen) != background, -1).sum()


# Labels of the parts of a picture


def as_map(labels, grid):
    """[tokens, points + 1] -> [grid * ROWS, grid * COLUMNS], without the last one."""
    return (
        labels[..., :-1].reshape(grid, grid, ROWS, COLUMNS).transpose(0, 2, 1, 3).reshape(grid * ROWS, grid * COLUMNS)
    )


def test_labels_say_what_is_where():
    scene = ShapeScene((255, 255, 255), (Shape("square", "blue", 192, 64, 60),), None)
    things, hues = label_points(scene, 8)
    shown, colored = as_map(things, 8), as_map(hues, 8)
    assert shown[8, 36] == THINGS.index("square")
    assert colored[8, 36] == HUES.index("blue")
    assert shown[24, 36] == shown[8, 12] == 0
    share = np.mean(np.any(np.asarray(draw_scene(scene)) != 255, -1))
    assert np.mean(shown > 0) == pytest.approx(share, rel=0.2)


def test_labels_say_where_shapes_have_their_middle_and_bars_their_top():
    scene = ShapeScene((255, 255, 255), (Shape("square", "blue", 200, 70, 60), Shape("star", "red", 100, 20, 20)), None)
    things, hues = label_points(scene, 8)[..., -1].reshape(2, 8, 8)
    assert {tuple(place) for place in np.argwhere(things).tolist()} == {(2, 6), (0, 3)}
    assert (things[2, 6], hues[2, 6]) == (THINGS.index("square"), HUES.index("blue"))
    shifted = label_points(scene, 8, View(bottom=128))[0, :, -1].reshape(8, 8)
    assert shifted[4, 6] == THINGS.index("square")  # 70 + (256 - 128) / 2 = 134 pixels from the top
    bars = (Bar("A", "blue", 5), Bar("B", "red", 20), Bar("C", "green", 10))
    tops = label_points(ChartScene((255, 255, 255), bars, "T", "DejaVuSans"), 8)[0, :, -1].reshape(8, 8)
    rows = {column: row for row, column in np.argwhere(tops == THINGS.index("bar")).tolist()}
    assert [rows[column] for column in sorted(rows)] == [5, 1, 4]


def test_labels_name_the_characters_in_order():
    scene = TextScene((255, 255, 255), (Text("K7Q", "red", "DejaVuSansMono", 40, 128, 40),))
    row = as_map(label_points(scene, 8)[0], 8)[16]
    assert [THINGS[label] for label in dict.fromkeys(row[row > 0].tolist())] == ["K", "7", "Q"]


def test_every_character_of_the_smallest_text_is_hit():
    for number in range(40):
        text = Text("BCDFG", "red", "DejaVuSans", 20 + number, 100 + number, SMALLEST_TEXT)
        things = label_points(TextScene((255, 255, 255), (text,)), 8)[0]
        assert {THINGS[label] for label in set(things.flatten().tolist()) - {0}} == set("BCDFG")


def test_labels_follow_the_padding():
    scene = ShapeScene((255, 255, 255), (Shape("circle", "red", 128, 60, 40),), None)
    shown = as_map(label_points(scene, 8, View(bottom=128))[0], 8)
    assert shown[15, 24] == THINGS.index("circle")  # 60 + (256 - 128) / 2 = 124 pixels from the top
    assert shown[7, 24] == 0


# Questions


def test_every_kind_is_asked_in_both_languages(examples):
    split, rows = examples
    turns = [turn for row in rows for turn in row.turns]
    chinese = [turn for turn in turns if re.search("[一-龥]", turn.question)]
    assert 0.1 < len(chinese) / len(turns) < 0.3
    rng = random.Random(0)
    for kind in SCENE_KINDS:  # some are rare
        turns += [turn for _ in range(60) for turn in ask(random_scene(rng, split, kind), rng)]
    chinese = [turn for turn in turns if re.search("[一-龥]", turn.question)]
    assert {turn.kind for turn in turns} == {turn.kind for turn in chinese} == set(KINDS)


def test_no_question_is_asked_twice_with_different_answers(examples):
    for row in examples[1]:
        answers = {}
        for turn in row.turns:
            assert turn.answer
            assert answers.setdefault(turn.question, turn.answer) == turn.answer


def shapes_scene():
    shapes = (
        Shape("circle", "red", 60, 60, 40),
        Shape("square", "blue", 200, 60, 40),
        Shape("circle", "green", 60, 200, 40),
    )
    return ShapeScene((255, 255, 255), shapes, None)


def answers_about(scene):
    """Every question that is ever asked about a scene, with its answer."""
    asked = [turn for seed in range(300) for turn in ask(scene, random.Random(seed), most_turns=20)]
    return {turn.question: turn.answer for turn in asked}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What color is the square?", "blue"),
        ("What shape is green?", "circle"),
        ("蓝色的是什么形状？", "正方形"),
        ("How many shapes are there?", "3"),
        ("How many circles are there?", "2"),
        ("How many shapes are blue?", "1"),
        ("Where is the red circle relative to the blue square?", "left"),
        ("Where is the green circle relative to the red circle?", "below"),
        ("红色的圆形在绿色的圆形的哪一边？", "上面"),
        ("Where is the circle relative to the blue square?", None),
        ("Where is the red circle relative to the square?", "left"),
        ("Where is the square?", "top right"),
        ("绿色的圆形在哪里？", "左下"),
        ("Describe the picture.", "a red circle, a blue square, a green circle"),
    ],
)
def test_answers_about_shapes(question, answer):
    """None stands for a question that is never asked."""
    assert answers_about(shapes_scene()).get(question) == answer


def test_what_is_ambiguous_is_not_asked():
    questions = answers_about(shapes_scene())
    assert "What color is the circle?" not in questions  # there are two
    assert not any("green circle relative to the blue square" in question for question in questions)  # diagonal


def test_places_are_those_of_the_padded_picture():
    for x, y, expected in ((40, 40, "top left"), (128, 128, "middle"), (128, 230, "bottom"), (86, 128, None)):
        assert place_of(Shape("star", "red", x, y, 30), View()) == expected
    assert place_of(Shape("star", "red", 128, 60, 30), View(bottom=128)) == "middle"


def test_directions():
    middle = Shape("star", "red", 100, 100, 30)
    for x, y, expected in ((40, 100, "left"), (160, 110, "right"), (100, 30, "above"), (90, 170, "below")):
        assert direction(Shape("star", "blue", x, y, 30), middle) == expected
    assert direction(Shape("star", "blue", 150, 150, 30), middle) is None


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which bar is the tallest?", "B"),
        ("哪个柱子最低？", "C"),
        ("How many bars are there?", "3"),
        ("What is the title?", "SALE"),
        ("What is the value of A?", "7"),
        ("绿色柱子的值是多少？", "2"),
        ("What color is the bar B?", "red"),
        ("What is the label of the blue bar?", "A"),
    ],
)
def test_answers_about_charts(question, answer):
    bars = (Bar("A", "blue", 7), Bar("B", "red", 15), Bar("C", "green", 2))
    assert answers_about(ChartScene((255, 255, 255), bars, "SALE", "DejaVuSans"))[question] == answer


def test_answers_about_text():
    texts = (Text("ONE", "red", "DejaVuSans", 20, 60, 20), Text("22", "blue", "DejaVuSans", 20, 180, 15))
    answers = answers_about(TextScene((255, 255, 255), texts))
    assert answers["What does the red text say?"] == answers["What is written at the top?"] == "ONE"
    assert answers["最下面写着什么？"] == "22"
    assert answers["Read all the text."] == "ONE, 22"
    kinds = {
        turn.answer: turn.kind for seed in range(50) for turn in ask(TextScene((0, 0, 0), texts), random.Random(seed))
    }
    assert kinds["ONE"] == "read_large"
    assert kinds["22"] == "read_small"


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Where is K?", "top left"), ("7在哪里？", "右下"), ("What colour is K?", "red"), ("7是什么颜色？", "蓝色")],
)
def test_answers_about_characters(question, answer):
    characters = (
        Text("K", "red", "DejaVuSans", 40, 40, 30, centered=True),
        Text("7", "blue", "DejaVuSans", 210, 215, 50, centered=True),
    )
    assert answers_about(CharacterScene((255, 255, 255), characters))[question] == answer


# Conversations and tokens


def test_the_picture_stands_in_front_of_the_first_question():
    one = example("train", 3)
    messages = conversation(one)
    assert [part["type"] for part in messages[0]["content"]] == ["image", "text"]
    assert isinstance(messages[0]["content"][0]["image"], Image.Image)
    assert [message["role"] for message in messages] == ["user", "assistant"] * len(one.turns)
    assert [message["content"] for message in messages[1::2]] == [turn.answer for turn in one.turns]


def test_training_looks_first_and_asks_later():
    dataset = SceneDataset(LOOKING_PICTURES + 10, grid=8)
    looking, asking = dataset[LOOKING_PICTURES - 1], dataset[LOOKING_PICTURES]
    assert set(looking) == {"picture", "cells"}
    assert set(asking) == {"messages", "cells"}
    assert looking["cells"].shape == asking["cells"].shape == (2, 64, ROWS * COLUMNS + 1)


def test_text_comes_in_one_style_first():
    first = [text for number in range(30) for line in look(number).scene.lines for text in line]
    assert {(text.color, text.font, text.size) for text in first} == {("black", "DejaVuSans", MIDDLE_TEXT)}
    pages = [look(VARIETY_PICTURES + number).scene for number in range(100)]
    later = [text for page in pages if isinstance(page, PageScene) for line in page.lines for text in line]
    assert {text.color for text in later} == set(TEXT_COLORS)
    assert {text.font for text in later} == set(FONTS)
    assert min(text.size for text in later) == SMALLEST_TEXT
    assert max(text.size for text in later) > 30


def test_questions_grow_harder():
    dataset = SceneDataset(LOOKING_PICTURES + 20_000, grid=8)
    first, later = (
        [len(np.unique(dataset[LOOKING_PICTURES + start + number]["cells"][1])) - 1 for number in range(100)]
        for start in (0, 15_000)
    )
    assert np.median(first) == 1  # one thing in one color
    assert np.mean(later) > 1.5 > np.mean(first)


def test_an_empty_dataset():
    with pytest.raises(ValueError, match="0 pictures; expected at least 1"):
        SceneDataset(0, grid=8)


def test_the_tokenizer_reads_characters_and_knows_the_words():
    tokenizer = train_tokenizer(tokenizer_texts(800))
    for string in ("OPEN", "WHAT", "7BKC", "1996"):
        assert len(tokenizer.tokenize(string)) == len(string)
    assert len(tokenizer.tokenize(" a red circle")) == 3
    ids = json.loads(tokenizer.backend_tokenizer.to_str())["added_tokens"]
    assert [token["content"] for token in ids] == [
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<image_placeholder>",
    ]
    for text in (*CHINESE.values(), "Ünicode 你好 🙂"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
