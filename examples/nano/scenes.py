"""Scenes as plain data: what is where in a picture. `drawing` turns them into pixels, `questions` asks about them.

A scene describes a picture of `side` x `side` pixels. Its `key` says what is in it, coarsely enough that two scenes
with different keys differ visibly; the split goes by the key.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from .splits import belongs_to
from .strings import CODE_CHARACTERS, random_string

SIDE = 256
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
COLORS = {
    "red": (214, 39, 40),
    "green": (36, 150, 60),
    "blue": (30, 90, 210),
    "yellow": (245, 205, 25),
    "orange": (250, 128, 20),
    "purple": (130, 60, 170),
    "black": (25, 25, 25),
    "pink": (245, 130, 190),
}
# Those in which small text can be read on a light background.
TEXT_COLORS = ("black", "blue", "red", "green", "purple")
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
SMALLEST_TEXT, MIDDLE_TEXT, LARGEST_PAGE_TEXT = 14, 20, 36  # font sizes in pixels
SMALL_TEXT = 18  # font sizes in pixels below this one count as small
SCENE_KINDS = {"shapes": 0.32, "text": 0.23, "chart": 0.32, "characters": 0.13}
CELL = 80
CELLS = tuple((column, row) for row in range(3) for column in range(3))


@dataclass(frozen=True)
class Shape:
    """A filled shape: its center and its size in pixels."""

    shape: str
    color: str
    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Text:
    """A line of text: left edge (or middle, if centered), middle of its height, and font size in pixels."""

    text: str
    color: str
    font: str
    x: int
    y: int
    size: int
    centered: bool = False


@dataclass(frozen=True)
class ShapeScene:
    """One to five shapes that do not overlap, in some pictures with a caption."""

    background: tuple[int, int, int]
    shapes: tuple[Shape, ...]
    caption: Text | None

    @property
    def key(self) -> str:
        """Shapes, colors and the ninth of the picture that each stands in."""
        places = sorted((shape.shape, shape.color, shape.x // CELL, shape.y // CELL) for shape in self.shapes)
        return f"shapes {places}"


@dataclass(frozen=True)
class TextScene:
    """One to four lines of text from top to bottom, each in a color of its own."""

    background: tuple[int, int, int]
    texts: tuple[Text, ...]

    @property
    def key(self) -> str:
        """The strings, in order."""
        return f"text {[text.text for text in self.texts]}"


@dataclass(frozen=True)
class CharacterScene:
    """One to five different characters, scattered as shapes are. They teach to find what a question spells."""

    background: tuple[int, int, int]
    characters: tuple[Text, ...]

    @property
    def key(self) -> str:
        """Characters, colors and the ninth of the picture that each stands in."""
        places = sorted((text.text, text.color, text.x // CELL, text.y // CELL) for text in self.characters)
        return f"characters {places}"


@dataclass(frozen=True)
class PageScene:
    """Lines of text from top to bottom, each of one or more strings: as much as fits, to look at alone."""

    background: tuple[int, int, int]
    lines: tuple[tuple[Text, ...], ...]

    @property
    def key(self) -> str:
        """The strings, in order."""
        return f"page {[[text.text for text in line] for line in self.lines]}"


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: label below it, value above it."""

    label: str
    color: str
    value: int


@dataclass(frozen=True)
class ChartScene:
    """A chart of three or four bars of different heights."""

    background: tuple[int, int, int]
    bars: tuple[Bar, ...]
    title: str
    font: str

    @property
    def key(self) -> str:
        """Labels and values, in order."""
        return f"chart {[(bar.label, bar.value) for bar in self.bars]}"


Scene = ShapeScene | TextScene | ChartScene | CharacterScene
AnyScene = Scene | PageScene  # those, and what is looked at without questions


def random_scene(rng: random.Random, split: str, kind: str | None = None, difficulty: float = 1.0) -> Scene:
    """Draws scenes until one belongs to the split.

    Args:
        rng: source of randomness.
        split: "train" or "held-out".
        kind: one of SCENE_KINDS; None draws it by their weights.
        difficulty: 0 to 1, the share of scenes as the held-out ones are; the others hold one large shape or a few
            large characters, from which training learns first what there is to see.
    """
    if rng.random() >= difficulty:
        draw = rng.choice(EASY_SCENE_MAKERS)
    else:
        draw = SCENE_MAKERS[kind or rng.choices(tuple(SCENE_KINDS), list(SCENE_KINDS.values()))[0]]
    while True:
        scene = draw(rng, split)
        # Held-out text is kept apart string by string, and almost no list of strings would hash the same way.
        if isinstance(scene, TextScene) or belongs_to(scene.key, split):
            return scene


def _background(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(225, 255), rng.randint(225, 255), rng.randint(225, 255)


def _large_shape_scene(rng: random.Random, split: str) -> ShapeScene:
    size = rng.randint(60, 180)
    x, y = (rng.randint(size // 2 + 4, SIDE - size // 2 - 4) for _ in range(2))
    return ShapeScene(_background(rng), (Shape(rng.choice(SHAPES), rng.choice(tuple(COLORS)), x, y, size),), None)


def _large_text_scene(rng: random.Random, split: str) -> TextScene:
    text = random_string(rng, split, longest=rng.randint(1, 5))
    size = rng.randint(32, min(100, SIDE // len(text)))
    x = rng.randint(4, max(4, SIDE - 4 - round(len(text) * size * 0.9)))
    y = rng.randint(size // 2, SIDE - size // 2)
    return TextScene(_background(rng), (Text(text, rng.choice(TEXT_COLORS), rng.choice(FONTS), x, y, size),))


def _shape_scene(rng: random.Random, split: str) -> ShapeScene:
    cells = rng.sample(CELLS, rng.randint(1, 5))
    shapes = []
    # Few kinds or few colors at a time, so that counts above one are common.
    kinds, colors = rng.sample(SHAPES, rng.randint(2, 5)), rng.sample(tuple(COLORS), rng.randint(2, 5))
    for cell in cells:
        x, y, size = _in_cell(cell, rng)
        shapes.append(Shape(rng.choice(kinds), rng.choice(colors), x, y, size))
    caption = None
    free_rows = [row for row in (2, 0, 1) if all(row != taken for _, taken in cells)]
    if free_rows and rng.random() < 0.5:
        caption = _text(rng, split, rng.choice(TEXT_COLORS), 8 + CELL * free_rows[0] + CELL // 2)
    return ShapeScene(_background(rng), tuple(shapes), caption)


def _in_cell(cell: tuple[int, int], rng: random.Random) -> tuple[int, int, int]:
    """Center and size of something that stands within a cell, in pixels."""
    size = rng.randint(28, 62)
    x, y = (8 + CELL * place + size // 2 + rng.randint(0, CELL - size) for place in cell)
    return x, y, size


def _character_scene(rng: random.Random, split: str) -> CharacterScene:
    cells = rng.sample(CELLS, rng.randint(1, 5))
    texts = []
    for cell, character in zip(cells, rng.sample(CODE_CHARACTERS, len(cells)), strict=True):
        x, y, size = _in_cell(cell, rng)
        texts.append(Text(character, rng.choice(TEXT_COLORS), rng.choice(FONTS), x, y, size, centered=True))
    return CharacterScene(_background(rng), tuple(texts))


def _text(rng: random.Random, split: str, color: str, y: int, largest: int = 40) -> Text:
    # Small sizes are as common as large ones: the logarithm is drawn evenly.
    size = round(SMALLEST_TEXT * (largest / SMALLEST_TEXT) ** rng.random())
    text = random_string(rng, split)
    width = round(len(text) * size * 0.9)  # of the widest font
    return Text(text, color, rng.choice(FONTS), rng.randint(4, max(4, SIDE - 4 - width)), y, size)


def _text_scene(rng: random.Random, split: str) -> TextScene:
    count = rng.randint(1, 4)
    height = SIDE // count
    texts = []
    for number, color in enumerate(rng.sample(TEXT_COLORS, count)):
        middle = height * number + height // 2 + rng.randint(-height // 5, height // 5)
        texts.append(_text(rng, split, color, middle, largest=min(52, height // 2)))
    return TextScene(_background(rng), tuple(texts))


def page_scene(rng: random.Random, split: str, variety: float = 1.0) -> PageScene:
    """A page of text.

    Args:
        rng: source of randomness.
        split: "train" or "held-out".
        variety: 0 to 1, from black text in one font and size to all of them. Characters are learned far sooner one
            style after the other.
    """
    smallest, largest = (MIDDLE_TEXT * (size / MIDDLE_TEXT) ** variety for size in (SMALLEST_TEXT, LARGEST_PAGE_TEXT))
    colors = TEXT_COLORS[: 1 + round(variety * (len(TEXT_COLORS) - 1))]
    fonts = FONTS[: 1 + round(variety * (len(FONTS) - 1))]
    lines: list[tuple[Text, ...]] = []
    y = rng.randint(2, 20)
    while True:
        size = round(smallest * (largest / smallest) ** rng.random())
        height = round(size * rng.uniform(1.1, 1.9))
        if y + height > SIDE:
            return PageScene(_background(rng), tuple(lines))
        lines.append(
            _line(rng, split, colors, Text("", "", rng.choice(fonts), rng.randint(4, 60), y + height // 2, size))
        )
        y += height


def _line(rng: random.Random, split: str, colors: tuple[str, ...], start: Text) -> tuple[Text, ...]:
    """Strings from `start` to the right edge, in its font and size."""
    x, texts = start.x, list[Text]()
    while True:
        text = random_string(rng, split)
        width = round(len(text) * start.size * 0.85)
        if texts and x + width > SIDE - 4:
            return tuple(texts)
        place = min(x, max(4, SIDE - 4 - width))
        texts.append(replace(start, text=text, color=rng.choice(colors), x=place))
        x += width + start.size


def _chart_scene(rng: random.Random, split: str) -> ChartScene:
    count = rng.randint(3, 4)
    longest = rng.choice((1, 1, 3))
    labels: list[str] = []
    while len(labels) < count:
        label = rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") if longest == 1 else random_string(rng, split, longest)
        if label not in labels:
            labels.append(label)
    values = rng.sample(range(1, 21), count)
    # The tallest and the shortest bar differ visibly from the others.
    while _gap(values) < 2:
        values = rng.sample(range(1, 21), count)
    colors = rng.sample([color for color in COLORS if color != "yellow"], count)
    bars = tuple(map(Bar, labels, colors, values))
    return ChartScene(_background(rng), bars, random_string(rng, split), rng.choice(FONTS))


def _gap(values: list[int]) -> int:
    ordered = sorted(values)
    return min(ordered[1] - ordered[0], ordered[-1] - ordered[-2])


SceneMaker = Callable[[random.Random, str], Scene]
EASY_SCENE_MAKERS: tuple[SceneMaker, ...] = (_large_shape_scene, _large_text_scene)
SCENE_MAKERS: dict[str, SceneMaker] = {
    "shapes": _shape_scene,
    "text": _text_scene,
    "chart": _chart_scene,
    "characters": _character_scene,
}
