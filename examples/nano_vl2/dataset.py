"""Conversations about drawn pictures, made on the fly: row N of a split is the same on every machine."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from deepseek_vl_hf.models.deepseek_vl2.tiling import MOST_TILED_IMAGES, num_image_tokens
from nano.dataset import READ
from nano.questions import Turn, ask
from nano.scenes import CharacterScene, Scene, ShapeScene, random_scene

from .boards import Board, page, shape_board, table, text_board
from .cells import SIDE, label_views
from .pictures import Picture, draw, picture_of
from .questions import about_several, about_shapes, about_table, about_texts, example_in_context, told_apart

# Shares of the pictures with questions: what finds things by color, form or spelling comes first, because charts and
# tables are learned at chance without it.
FIRST_SHARES = {
    "shapes": 0.16,
    "text": 0.12,
    "chart": 0.06,
    "characters": 0.2,
    "board": 0.3,
    "tiles": 0.1,
    "table": 0.02,
    "several": 0.02,
    "in_context": 0.02,
}
SHARES = {
    "shapes": 0.1,
    "text": 0.12,
    "chart": 0.24,
    "characters": 0.09,
    "board": 0.24,
    "tiles": 0.11,
    "table": 0.04,
    "several": 0.03,
    "in_context": 0.03,
}
SQUARES = ("shapes", "text", "chart", "characters")  # the kinds of nano
# Sides in pixels of the squares: of four tiles, at times of nine. Shapes can be seen in one tile, too.
SMALLEST, FOUR_TILES, NINE_TILES = 104, (208, 224), (312, 336)
NINE_TILES_SHARES = {"text": 0.4, "shapes": 0.1, "chart": 0.15, "characters": 0.1}
# In looking: the first of so many pictures bring text from one style to all.
VARIETY_PICTURES = 32_000
PAGE_SHARE = 0.4
MOST_VIEWS = 4  # of a picture: tiles look alike, and other pictures teach more than further tiles of the same one
# In answering: the first of so many bring the questions from easy ones to all.
WARM_UP_PICTURES = 10_000
# Over so many the shares become the later ones.
MIXING_PICTURES = 24_000
ALIKE = 64
PIECES = re.compile(r"<\|.*?\|>|[a-z]+|[^a-z\s]")  # about what the tokenizer makes of a text


@dataclass(frozen=True)
class Example:
    """Pictures, and what is asked about them.

    Attributes:
        kind: one of SHARES.
        pictures: one or several.
        heads: for each picture the text in front of it; behind the last one comes the first question.
        turns: questions and answers.
    """

    kind: str
    pictures: list[Picture]
    heads: list[str]
    turns: list[Turn]


def example(split: str, number: int, difficulty: float = 1.0, kind: str | None = None, mixing: float = 1.0) -> Example:
    """Row `number` of a split.

    Args:
        split: "train" or "held-out".
        number: of the row.
        difficulty: 0 to 1, the share of rows that are as the held-out ones.
        kind: one of SHARES; None draws it by them.
        mixing: 0 to 1, from FIRST_SHARES to SHARES.
    """
    rng = random.Random(f"vl2 {split} {number}")
    shares = [first + mixing * (SHARES[name] - first) for name, first in FIRST_SHARES.items()]
    kind = kind or rng.choices(tuple(FIRST_SHARES), shares)[0]
    if kind in SQUARES:
        return _square(kind, random_scene(rng, split, kind, difficulty), rng)
    return MAKERS[kind](rng, split)


def _square(kind: str, scene: Scene, rng: random.Random) -> Example:
    sides = NINE_TILES if rng.random() < NINE_TILES_SHARES[kind] else FOUR_TILES
    if isinstance(scene, (ShapeScene, CharacterScene)) and rng.random() < 0.4:
        sides = (SMALLEST, FOUR_TILES[0])
    caption = isinstance(scene, ShapeScene) and scene.caption
    side = rng.randint(*(FOUR_TILES if caption else sides))
    return Example(kind, [picture_of(scene, side)], [""], ask(scene, rng))


def _board(rng: random.Random, split: str) -> Example:
    board = shape_board(rng, split)
    return Example("board", [board.picture], [""], about_shapes(board, rng))


def _tiles(rng: random.Random, split: str) -> Example:
    board = text_board(rng, split)
    while not board.texts:
        board = text_board(rng, split)
    return Example("tiles", [board.picture], [""], about_texts(board, rng))


def _table(rng: random.Random, split: str) -> Example:
    drawn = table(rng, split)
    return Example("table", [drawn.picture], [""], about_table(drawn, rng))


def _several(rng: random.Random, split: str) -> Example:
    boards = [shape_board(rng, split, most=3) for _ in range(rng.randint(2, 3))]
    heads = [f"This is image_{number}: " for number in range(1, len(boards) + 1)]
    return Example("several", [board.picture for board in boards], heads, about_several(boards, rng))


def _in_context(rng: random.Random, split: str) -> Example:
    most = rng.choice((1, 4))
    boards: list[Board] = []
    while not boards or not told_apart(boards):
        boards = [shape_board(rng, split, most=most) for _ in range(3)]
    said, answer = example_in_context(boards, rng)
    heads = ["", *(f"{saying}\n" for saying in said)]
    return Example("in_context", [board.picture for board in boards], heads, [Turn("in_context", "", answer)])


MAKERS: dict[str, Callable[[random.Random, str], Example]] = {
    "board": _board,
    "tiles": _tiles,
    "table": _table,
    "several": _several,
    "in_context": _in_context,
}


# Beside pages: what is drawn so, each as often as it stands here.
LOOKED_AT = ("shapes", "shapes", "text", "chart", "characters", "board", "board", "board", "table")


def look(number: int) -> tuple[Picture, list[int]]:
    """A training picture without questions, and which of its views are looked at: 0 is the whole, then come tiles."""
    rng = random.Random(f"vl2 look {number}")
    variety = min(1.0, number / VARIETY_PICTURES)
    if rng.random() < 1 - (1 - PAGE_SHARE) * variety:
        # The whole of a page shows gray lines.
        picture, views = page(rng, "train", variety), list[int]()
    else:
        picture, views = example("train", rng.randrange(10**9), kind=rng.choice(LOOKED_AT)).pictures[0], [0]
    columns, rows = picture.grid
    tiles = rng.sample(range(1, columns * rows + 1), min(columns * rows, MOST_VIEWS - len(views)))
    return picture, [*views, *sorted(tiles)]


def conversation(one: Example) -> list[dict[str, Any]]:
    """The messages of an example: pictures and texts in front of the first question, all turns in one sequence."""
    messages: list[dict[str, Any]] = []
    for turn in one.turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    messages[0]["content"] = content(one, one.turns[0])
    return messages


def content(one: Example, turn: Turn) -> list[dict[str, Any]]:
    """A user's message: the pictures, then a question."""
    parts: list[dict[str, Any]] = []
    for head, picture in zip(one.heads, one.pictures, strict=True):
        parts += [{"type": "text", "text": head}] if head else []
        parts += [{"type": "image", "image": draw(picture)}, {"type": "text", "text": "\n"}]
    return [*parts[:-1], {"type": "text", "text": f"\n{turn.question}"}]


class LookingDataset(Dataset[dict[str, Any]]):
    """`pictures` rows without questions."""

    def __init__(self, pictures: int) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return self.pictures

    def __getitem__(self, number: int) -> dict[str, Any]:
        picture, views = look(number)
        points, middles = label_views(picture)
        return {"picture": draw(picture), "views": views, "labels": [(points[views], middles[views])]}


class AnsweringDataset(Dataset[dict[str, Any]]):
    """`conversations` rows with questions, of which the first are the easiest.

    Of each `ALIKE` rows the short ones come first: rows of about the same length share a batch, which saves a third of
    its places.
    """

    def __init__(self, conversations: int) -> None:
        self.conversations = conversations
        self._sorted: tuple[int, list[Example]] = (-1, [])

    def __len__(self) -> int:
        return self.conversations

    def __getitem__(self, number: int) -> dict[str, Any]:
        start = number - number % ALIKE
        if self._sorted[0] != start:
            rows = range(start, min(start + ALIKE, self.conversations))
            self._sorted = (start, sorted((_training_example(row) for row in rows), key=_length))
        one = self._sorted[1][number - start]
        tiled = len(one.pictures) <= MOST_TILED_IMAGES
        return {"messages": conversation(one), "labels": [label_views(picture, tiled) for picture in one.pictures]}


def _training_example(number: int) -> Example:
    difficulty, mixing = (min(1.0, number / count) for count in (WARM_UP_PICTURES, MIXING_PICTURES))
    return example("train", number, difficulty, mixing=mixing)


def _length(one: Example) -> int:
    """About how many tokens a conversation has."""
    grids = [picture.grid if len(one.pictures) <= MOST_TILED_IMAGES else (1, 1) for picture in one.pictures]
    text = " ".join(f"{turn.question} {turn.answer}" for turn in one.turns)
    return sum(num_image_tokens(*grid, SIDE) for grid in grids) + len(PIECES.findall(text)) + 6 * len(one.turns)


def tokenizer_texts(examples: int) -> Iterator[str]:
    """What the tokenizer learns its merges from: questions and answers without the strings that are to be read."""
    for number in range(examples):
        one = example("train", number)
        for turn in one.turns:
            yield READ.sub("", turn.question)
            yield READ.sub("", f" {turn.answer}")
        yield from one.heads
