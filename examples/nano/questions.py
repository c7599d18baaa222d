"""Questions about scenes and their answers, in English and Chinese. Answers are short and exact."""

import random
from collections import Counter
from dataclasses import dataclass

from .drawing import View
from .scenes import SIDE, SMALL_TEXT, CharacterScene, ChartScene, Scene, Shape, ShapeScene, Text, TextScene

CHINESE_SHARE = 0.2
MOST_TURNS = 8
# Difference of the distances between two centers, in pixels, from which on one direction is plainly the larger one.
CLEAR_DIRECTION = 24
KINDS = (
    "color",
    "shape",
    "count",
    "place",
    "relation",
    "describe",
    "read_small",
    "read_large",
    "read_all",
    "chart",
    "character",
)

CHINESE = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "orange": "橙色",
    "purple": "紫色",
    "black": "黑色",
    "pink": "粉色",
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星形",
    "diamond": "菱形",
    "cross": "十字形",
    "left": "左边",
    "right": "右边",
    "above": "上面",
    "below": "下面",
    "top left": "左上",
    "top": "上方",
    "top right": "右上",
    "middle": "中间",
    "bottom left": "左下",
    "bottom": "下方",
    "bottom right": "右下",
}
# Thirds of the picture, row by row.
PLACES = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
CLEAR_PLACE = 8  # pixels that a middle keeps from the lines between thirds where its place is asked for

# Wordings that ask the same.
Wordings = tuple[str, ...]
WRITTEN: Wordings = ("What is written?", "What does it say?", "Read the text.", "What is written in the picture?")
ALL_TEXT: Wordings = ("Read all the text.", "Read the text.", "What is written in the picture?")
FIRST_LINE: Wordings = ("What does the first line say?", "Read the first line.")
LAST_LINE: Wordings = ("What does the last line say?", "Read the last line.")
LINES: Wordings = ("How many lines of text are there?", "How many lines are written?")
TALLEST: Wordings = ("Which bar is the tallest?", "Which bar is the highest?")
SHORTEST: Wordings = ("Which bar is the shortest?", "Which bar is the lowest?")
TITLE: Wordings = ("What is the title?", "What is the title of the chart?")


@dataclass(frozen=True)
class Turn:
    """A question, its answer, and what kind of question it is.

    Attributes:
        kind: one of KINDS, or of those that other recipes add.
        question: as it is asked.
        answer: to the letter.
        about: what in the picture the answer is taken from, if that is plain: numbers of shapes or bars, or strings; of
            a chart in the order in which one leads to the other.
    """

    kind: str
    question: str
    answer: str
    about: tuple[int | str, ...] = ()


def ask(scene: Scene, rng: random.Random, view: View | None = None, most_turns: int = MOST_TURNS) -> list[Turn]:
    """Up to `most_turns` different questions about a scene, in random order; at least one.

    Args:
        scene: what they are about.
        rng: source of randomness.
        view: how the scene is pictured, for questions about places in the picture.
        most_turns: how many.
    """
    if isinstance(scene, ShapeScene):
        turns = _about_shapes(scene, rng, view or View())
    elif isinstance(scene, TextScene):
        turns = _about_texts(scene, rng)
    elif isinstance(scene, CharacterScene):
        turns = _about_characters(scene, rng, view or View())
    else:
        turns = _about_chart(scene, rng)
    rng.shuffle(turns)
    return turns[:most_turns]


def _turn(
    rng: random.Random, kind: str, english: Wordings, chinese: str, answer: str, about: tuple[int | str, ...] = ()
) -> Turn:
    """A turn in one of the two languages; an answer with a Chinese name is given in the question's language."""
    if rng.random() < CHINESE_SHARE:
        return Turn(kind, chinese, CHINESE.get(answer, answer), about)
    return Turn(kind, rng.choice(english), answer, about)


def _about_shapes(scene: ShapeScene, rng: random.Random, view: View) -> list[Turn]:
    turns = [*_colors_and_shapes(scene, rng)[:2], *_counts(scene, rng)[:4], *_relations(scene, rng)]
    turns += _places(scene, rng, view)[:1]
    if rng.random() < 0.4:
        turns.append(_description(scene, rng))
    if scene.caption:
        text = scene.caption.text
        turns.append(_turn(rng, _reading(scene.caption), WRITTEN, "图中写着什么？", text, (text,)))
    return turns


def _colors_and_shapes(scene: ShapeScene, rng: random.Random) -> list[Turn]:
    kinds, colors = Counter(s.shape for s in scene.shapes), Counter(s.color for s in scene.shapes)
    turns = []
    for number, shape in enumerate(scene.shapes):
        if kinds[shape.shape] == 1:
            english = tuple(f"What {word} is the {shape.shape}?" for word in ("color", "colour"))
            turns.append(_turn(rng, "color", english, f"{CHINESE[shape.shape]}是什么颜色？", shape.color, (number,)))
        if colors[shape.color] == 1:
            english = (f"What shape is {shape.color}?", f"What is the {shape.color} shape?")
            turns.append(_turn(rng, "shape", english, f"{CHINESE[shape.color]}的是什么形状？", shape.shape, (number,)))
    rng.shuffle(turns)
    return turns


def _counts(scene: ShapeScene, rng: random.Random) -> list[Turn]:
    english = ("How many shapes are there?", "How many shapes are in the picture?")
    numbers = range(len(scene.shapes))
    turns = [_counted(rng, english, "图中有几个形状？", tuple(numbers))]
    for kind in Counter(shape.shape for shape in scene.shapes):
        plural = _plural(kind)
        english = (f"How many {plural} are there?", f"How many {plural} do you see?")
        meant = tuple(number for number in numbers if scene.shapes[number].shape == kind)
        turns.append(_counted(rng, english, f"图中有几个{CHINESE[kind]}？", meant))
    for color in Counter(shape.color for shape in scene.shapes):
        english = (f"How many {color} shapes are there?", f"How many shapes are {color}?")
        meant = tuple(number for number in numbers if scene.shapes[number].color == color)
        turns.append(_counted(rng, english, f"图中有几个{CHINESE[color]}的形状？", meant))
    # Most kinds and colors occur once; without a preference for the others, "1" would be right too often.
    return sorted(turns, key=lambda turn: rng.random() + (turn.answer == "1"))


def _counted(rng: random.Random, english: Wordings, chinese: str, meant: tuple[int, ...]) -> Turn:
    return _turn(rng, "count", english, chinese, str(len(meant)), meant)


def _plural(kind: str) -> str:
    return "crosses" if kind == "cross" else f"{kind}s"


def _unique(scene: ShapeScene) -> list[Shape]:
    """The shapes that color and kind together tell from all others."""
    names = Counter((shape.color, shape.shape) for shape in scene.shapes)
    return [shape for shape in scene.shapes if names[shape.color, shape.shape] == 1]


def _name(shape: Shape, scene: ShapeScene, rng: random.Random) -> tuple[str, str]:
    """What to call a shape, in English and Chinese: without its color in half of the cases in which that is clear."""
    alone = sum(other.shape == shape.shape for other in scene.shapes) == 1
    if alone and rng.random() < 0.5:
        return f"the {shape.shape}", CHINESE[shape.shape]
    return f"the {shape.color} {shape.shape}", f"{CHINESE[shape.color]}的{CHINESE[shape.shape]}"


def _places(scene: ShapeScene, rng: random.Random, view: View) -> list[Turn]:
    turns = []
    for shape in _unique(scene):
        place = place_of(shape, view)
        if place:
            english, chinese = _name(shape, scene, rng)
            about = (scene.shapes.index(shape),)
            turns.append(_turn(rng, "place", (f"Where is {english}?",), f"{chinese}在哪里？", place, about))
    rng.shuffle(turns)
    return turns


def place_of(shape: Shape | Text, view: View) -> str | None:
    """The ninth of the picture in which a shape or a centered text has its middle; None where that is not plain."""
    thirds = []
    for middle, shift in zip((shape.x, shape.y), view.shift, strict=True):
        near = [int((middle + shift + step) * 3 / SIDE) for step in (-CLEAR_PLACE, CLEAR_PLACE)]
        if near[0] != near[1]:
            return None
        thirds.append(near[0])
    return PLACES[thirds[1]][thirds[0]]


def _relations(scene: ShapeScene, rng: random.Random) -> list[Turn]:
    unique = _unique(scene)
    pairs = [(one, other) for one in unique for other in unique if one != other and direction(one, other)]
    rng.shuffle(pairs)
    turns = []
    for one, other in pairs[:3]:
        (first, one_chinese), (second, other_chinese) = (_name(shape, scene, rng) for shape in (one, other))
        english = (f"Where is {first} relative to {second}?", f"Seen from {second}, where is {first}?")
        chinese = f"{one_chinese}在{other_chinese}的哪一边？"
        about = scene.shapes.index(one), scene.shapes.index(other)
        turns.append(_turn(rng, "relation", english, chinese, direction(one, other) or "", about))
    return turns


def direction(one: Shape, other: Shape) -> str | None:
    """Where `one` lies, seen from `other`: left, right, above or below; None where that is not plain to see."""
    across, down = one.x - other.x, one.y - other.y
    if abs(abs(across) - abs(down)) < CLEAR_DIRECTION:
        return None
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"


def _description(scene: ShapeScene, rng: random.Random) -> Turn:
    """Names the shapes in reading order: by thirds of the picture from the top, then from the left."""
    ordered = sorted(scene.shapes, key=lambda shape: (shape.y // 80, shape.x))
    about = tuple(map(scene.shapes.index, ordered))
    if rng.random() < CHINESE_SHARE:
        names = [f"{CHINESE[shape.color]}的{CHINESE[shape.shape]}" for shape in ordered]
        return Turn("describe", "描述这张图片。", "、".join(names), about)
    names = [f"{'an' if shape.color == 'orange' else 'a'} {shape.color} {shape.shape}" for shape in ordered]
    question = rng.choice(("Describe the picture.", "Describe this image.", "What is in the picture?"))
    return Turn("describe", question, ", ".join(names), about)


def _reading(text: Text) -> str:
    return "read_small" if text.size < SMALL_TEXT else "read_large"


def _about_texts(scene: TextScene, rng: random.Random) -> list[Turn]:
    if len(scene.texts) > 1 and rng.random() < 0.3:
        # By itself: beside it, the answers about single lines could be copied instead of read.
        strings = tuple(text.text for text in scene.texts)
        return [_turn(rng, "read_all", ALL_TEXT, "读出所有文字。", ", ".join(strings), strings)]
    turns = [_about_text(scene, number, rng) for number in range(len(scene.texts))]
    if rng.random() < 0.3:
        about = tuple(text.text for text in scene.texts)
        turns.append(_turn(rng, "count", LINES, "图中有几行文字？", str(len(about)), about))
    return turns


def _about_text(scene: TextScene, number: int, rng: random.Random) -> Turn:
    text = scene.texts[number]
    kind, about = _reading(text), (text.text,)
    if len(scene.texts) == 1:
        return _turn(rng, kind, WRITTEN, "图中写着什么？", text.text, about)
    if number == 0 and rng.random() < 0.5:
        return _turn(rng, kind, ("What is written at the top?", *FIRST_LINE), "最上面写着什么？", text.text, about)
    if number == len(scene.texts) - 1 and rng.random() < 0.5:
        return _turn(rng, kind, ("What is written at the bottom?", *LAST_LINE), "最下面写着什么？", text.text, about)
    english = (f"What does the {text.color} text say?", f"What is written in {text.color}?")
    return _turn(rng, kind, english, f"{CHINESE[text.color]}的文字是什么？", text.text, about)


def _about_characters(scene: CharacterScene, rng: random.Random, view: View) -> list[Turn]:
    turns = []
    for text in scene.characters:
        colors = tuple(f"What {word} is {text.text}?" for word in ("color", "colour"))
        turns.append(_turn(rng, "character", colors, f"{text.text}是什么颜色？", text.color, (text.text,)))
        place = place_of(text, view)
        if place:
            english = (f"Where is {text.text}?",)
            turns.append(_turn(rng, "character", english, f"{text.text}在哪里？", place, (text.text,)))
    return turns


def _about_chart(scene: ChartScene, rng: random.Random) -> list[Turn]:
    values = [bar.value for bar in scene.bars]
    tallest, shortest = (values.index(choose(values)) for choose in (max, min))
    first, last = (scene.bars[number].label for number in (tallest, shortest))
    number = str(len(values))
    about_all = [
        _turn(rng, "chart", TALLEST, "哪个柱子最高？", first, (tallest, first)),
        _turn(rng, "chart", SHORTEST, "哪个柱子最低？", last, (shortest, last)),
        _turn(rng, "chart", ("How many bars are there?",), "图中有几个柱子？", number, (*range(len(values)),)),
        _turn(rng, "read_large", TITLE, "标题是什么？", scene.title, (scene.title,)),
    ]
    return [
        *rng.sample(about_all, 3),
        *(turn for bar in range(len(scene.bars)) for turn in _about_bar(scene, bar, rng)),
    ]


def _about_bar(scene: ChartScene, number: int, rng: random.Random) -> list[Turn]:
    bar = scene.bars[number]
    label, value, color, chinese = bar.label, str(bar.value), bar.color, CHINESE[bar.color]
    questions = (
        (f"What is the value of the {color} bar?", f"{chinese}柱子的值是多少？", value, (number,)),
        (f"What is the value of {label}?", f"{label}的值是多少？", value, (label, number)),
        (f"What color is the bar {label}?", f"{label}是什么颜色？", color, (label,)),
        (f"What is the label of the {color} bar?", f"{chinese}柱子的标签是什么？", label, (number, label)),
    )
    # A bar's value stands next to its color; what goes by labels is harder and asked more often.
    chosen = {*rng.choices(questions, weights=(1, 2, 2, 2), k=2)}
    return [
        _turn(rng, "chart", (english,), in_chinese, answer, about)
        for english, in_chinese, answer, about in sorted(chosen)
    ]
