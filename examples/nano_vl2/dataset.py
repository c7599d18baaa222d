"""Conversations about drawn pictures, made on the fly: row N of a split is the same on every machine."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from nano.dataset import READ
from nano.questions import Turn, ask
from nano.scenes import CharacterScene, Scene, ShapeScene, random_scene
from nano.splits import belongs_to

from .boards import MOST_SHAPES, Board, page, shape_board, table, text_board
from .cells import label_views
from .pictures import TILE, Picture, cropped, draw, enlarged, picture_of, widened
from .questions import (
    about_several,
    about_shapes,
    about_table,
    about_texts,
    example_in_context,
    in_rows,
    told_apart,
)
from .shown import Shown, shown

# Shares of the pictures with questions: what finds things by color, form or spelling comes first, because charts and
# tables are learned at chance without it.
FIRST_SHARES = {
    "shapes": 0.14,
    "text": 0.12,
    "chart": 0.03,
    "characters": 0.16,
    "board": 0.4,
    "tiles": 0.1,
    "table": 0.01,
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
SEEN_IN_ONE_TILE = ("shapes", "characters")
ONLY_TILED = ("tiles", "table")
MOST_TILES = 9
# Sides in pixels of the squares: of four tiles, at times of nine. Shapes can be seen in one tile, too.
SMALLEST, FOUR_TILES, NINE_TILES = 104, (208, 224), (312, 336)
NINE_TILES_SHARES = {"text": 0.4, "shapes": 0.1, "chart": 0.15, "characters": 0.1}
# Squares that are not drawn for their tiles, as people's pictures are not: any side from four tiles to twice nine.
ANY_SIDE_SHARE, ANY_SIDE = 0.25, (226, 640)
MOST_ENLARGED = 2.5  # boards of text and tables, as often
# Charts on a canvas that is a little wider or taller than they are, and their least share of its longer edge.
WIDENED_SHARE, NARROWEST = 0.5, 0.92
# Of kinds about which nobody asks where in the picture something is.
PLACELESS, CROPPED_SHARE = ("chart", "text"), 0.3
# In training: squares in which most shapes share a color or a kind; counts of these above two are rare otherwise.
ALIKE_SHARE = 0.6
ALIKE_TRIES = 8  # until such a scene belongs to the split
# In looking: the first of so many pictures bring text from one style to all.
VARIETY_PICTURES = 32_000
PAGE_SHARE = 0.4
# Of all pictures: boards of which nothing but the view of the whole is looked at, because it alone has boxes.
WHOLE_SHARE = 0.5
WHOLES = ("board", "board", "board", "shapes")
MOST_VIEWS = 4  # of a picture: tiles look alike, and other pictures teach more than further tiles of the same one
# In answering: so many conversations are about one thing in one tile; over the next ones there come more things, up to
# half of the way, and then more tiles.
EASY_CONVERSATIONS, HARDENING_CONVERSATIONS = 4_000, 24_000
# After these the shares become the later ones, over so many.
MIXING_CONVERSATIONS = 40_000
CONVERSATIONS = 2  # about the same pictures
ANSWERS_REPEATED = 3  # for the tokenizer
ASKED_ONCE = ("tiles", "table", "in_context")  # kinds about which there is little else to ask


@dataclass(frozen=True)
class Example:
    """Pictures, and what is asked about them.

    Attributes:
        kind: one of SHARES.
        pictures: one or several.
        heads: for each picture the text in front of it; after the last one comes the first question.
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
        difficulty: 0 to 1, from one thing in one tile to what the held-out rows are.
        kind: one of SHARES; None draws it by them.
        mixing: 0 to 1, from FIRST_SHARES to SHARES.
    """
    rng = random.Random(f"vl2 {split} {number}")
    return _examples(rng, split, difficulty, kind or _kind(rng, mixing), 1)[0]


def _kind(rng: random.Random, mixing: float, kinds: Sequence[str] = tuple(SHARES)) -> str:
    shares = [FIRST_SHARES[name] + mixing * (SHARES[name] - FIRST_SHARES[name]) for name in kinds]
    return rng.choices(kinds, shares)[0]


def _examples(rng: random.Random, split: str, difficulty: float, kind: str, count: int) -> list[Example]:
    """So many conversations about the same pictures: of one thing in one tile, then of more, then in many tiles."""
    many, tiled = (rng.random() < share for share in (2 * difficulty, 2 * difficulty - 1))
    things = 1 + int(min(1.0, 2 * difficulty) * (MOST_SHAPES - 1) + (rng.random() if difficulty < 0.5 else 0))
    limits = _Limits(things=things if difficulty else 1, tiles=MOST_TILES if tiled else 1)
    if kind in SQUARES or (kind in ONLY_TILED and not tiled):
        full = many and (tiled or kind in SEEN_IN_ONE_TILE)
        scene = random_scene(rng, split, kind if kind in SQUARES else "text", 1.0 if full else 0.0)
        if split == "train" and isinstance(scene, ShapeScene) and rng.random() < ALIKE_SHARE:
            scene = made_alike(scene, rng)
        pictures, ask_again = _square(kind, scene, rng, limits)
    else:
        pictures, ask_again = MAKERS[kind](rng, split, limits)
    return [Example(kind, pictures, *ask_again()) for _ in range(count)]


def made_alike(scene: ShapeScene, rng: random.Random) -> ShapeScene:
    """Most shapes as one of them in color or kind, if such a scene is one of training's."""
    for _ in range(ALIKE_TRIES):
        name, one = rng.choice(("color", "shape")), rng.choice(scene.shapes)
        shared = {name: getattr(one, name)}
        shapes = tuple(replace(shape, **shared) if rng.random() < 0.9 else shape for shape in scene.shapes)
        alike = replace(scene, shapes=shapes)
        if belongs_to(alike.key, "train"):
            return alike
    return scene


@dataclass(frozen=True)
class _Limits:
    """How much there may be in a picture: things, and tiles."""

    things: int
    tiles: int


# Pictures, and what gives the texts in front of them with new questions about them each time.
_Drawn = tuple[list[Picture], Callable[[], tuple[list[str], list[Turn]]]]


def _square(kind: str, scene: Scene, rng: random.Random, limits: _Limits) -> _Drawn:
    sides = NINE_TILES if rng.random() < NINE_TILES_SHARES.get(kind, 0) else FOUR_TILES
    if isinstance(scene, (ShapeScene, CharacterScene)) and rng.random() < 0.4:
        sides = (SMALLEST, FOUR_TILES[0])
    if rng.random() < ANY_SIDE_SHARE:
        sides = ANY_SIDE
    caption = isinstance(scene, ShapeScene) and scene.caption
    side = rng.randint(*(FOUR_TILES if caption else sides))
    if limits.tiles == 1:
        side = rng.randint(SMALLEST, TILE)
    width = height = side
    if kind == "chart" and rng.random() < WIDENED_SHARE:
        shorter = round(side * rng.uniform(NARROWEST, 1))
        width, height = rng.choice(((side, shorter), (shorter, side)))
    picture = widened(picture_of(scene, min(width, height)), width, height)
    if kind in PLACELESS and rng.random() < CROPPED_SHARE:
        picture = cropped(picture, rng)
    return [picture], lambda: ([""], _asked(scene, rng, picture))


def _asked(scene: Scene, rng: random.Random, picture: Picture) -> list[Turn]:
    """Nano's questions. A description comes first: what it names is counted by the commas before."""
    turns = [in_rows(turn, picture) if turn.kind == "describe" else turn for turn in ask(scene, rng)]
    return sorted(turns, key=lambda turn: turn.kind != "describe")


def _board(rng: random.Random, split: str, limits: _Limits) -> _Drawn:
    board = shape_board(rng, split, limits.things, limits.tiles)
    return [board.picture], lambda: ([""], about_shapes(board, rng))


def _tiles(rng: random.Random, split: str, limits: _Limits) -> _Drawn:
    board = text_board(rng, split)
    while not board.texts:
        board = text_board(rng, split)
    return [_at_any_size(board.picture, rng)], lambda: ([""], about_texts(board, rng))


def _table(rng: random.Random, split: str, limits: _Limits) -> _Drawn:
    drawn = table(rng, split)
    return [_at_any_size(drawn.picture, rng)], lambda: ([""], about_table(drawn, rng))


def _at_any_size(picture: Picture, rng: random.Random) -> Picture:
    return enlarged(picture, rng.uniform(1, MOST_ENLARGED)) if rng.random() < ANY_SIDE_SHARE else picture


def _several(rng: random.Random, split: str, limits: _Limits) -> _Drawn:
    boards = [shape_board(rng, split, min(3, limits.things), limits.tiles) for _ in range(rng.randint(2, 3))]
    heads = [f"This is image_{number}: " for number in range(1, len(boards) + 1)]
    return [board.picture for board in boards], lambda: (heads, about_several(boards, rng))


def _in_context(rng: random.Random, split: str, limits: _Limits) -> _Drawn:
    most = min(rng.choice((1, 4)), limits.things)
    boards: list[Board] = []
    while not boards or not told_apart(boards):
        boards = [shape_board(rng, split, most, limits.tiles) for _ in range(3)]

    def ask_again() -> tuple[list[str], list[Turn]]:
        said, turn = example_in_context(boards, rng)
        return ["", *(f"{saying}\n" for saying in said)], [turn]

    return [board.picture for board in boards], ask_again


MAKERS: dict[str, Callable[[random.Random, str, _Limits], _Drawn]] = {
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
    if rng.random() < WHOLE_SHARE:
        return example("train", rng.randrange(10**9), kind=rng.choice(WHOLES)).pictures[0], [0]
    if rng.random() < 1 - (1 - PAGE_SHARE) * variety:
        # The whole of a page shows gray lines.
        picture, views = page(rng, "train", variety), list[int]()
    else:
        picture, views = example("train", rng.randrange(10**9), kind=rng.choice(LOOKED_AT)).pictures[0], [0]
    columns, rows = picture.grid
    tiles = rng.sample(range(1, columns * rows + 1), min(columns * rows, MOST_VIEWS - len(views)))
    return picture, [*views, *sorted(tiles)]


def conversation(one: Example, images: list[Image.Image] | None = None) -> list[dict[str, Any]]:
    """The messages of an example: pictures and texts in front of the first question, all turns in one sequence."""
    messages: list[dict[str, Any]] = []
    for turn in one.turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    messages[0]["content"] = content(one, one.turns[0], images)
    return messages


def content(one: Example, turn: Turn, images: list[Image.Image] | None = None) -> list[dict[str, Any]]:
    """A user's message: the pictures, drawn now or before, then a question."""
    parts: list[dict[str, Any]] = []
    for head, image in zip(one.heads, images or [*map(draw, one.pictures)], strict=True):
        parts += [{"type": "text", "text": head}] if head else []
        parts += [{"type": "image", "image": image}, {"type": "text", "text": "\n"}]
    return [*parts[:-1], {"type": "text", "text": f"\n{turn.question}"}]


class LookingDataset(Dataset[dict[str, Any]]):
    """`pictures` rows without questions."""

    def __init__(self, pictures: int) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return self.pictures

    def __getitem__(self, number: int) -> dict[str, Any]:
        picture, views = look(number)
        labels = [part[views] for part in label_views(picture)]
        return {"picture": draw(picture), "views": views, "labels": [labels]}


class AnsweringDataset(Dataset[dict[str, Any]]):
    """`conversations` rows with questions, of which the first are the easiest.

    There are `CONVERSATIONS` about most pictures, one after the other.

    Args:
        conversations: how many rows.
        first: the number of the first one, where an earlier run showed those before it.
        kinds: of SHARES, of which they are.

    Raises:
        ValueError: `first` is negative or no multiple of CONVERSATIONS.
    """

    def __init__(self, conversations: int, first: int = 0, kinds: Sequence[str] = tuple(SHARES)) -> None:
        if first < 0 or first % CONVERSATIONS:
            raise ValueError(f"first is {first}; expected a multiple of {CONVERSATIONS}, 0 or more.")
        self.conversations = conversations
        self.first = first
        self.kinds = kinds
        self._drawn: tuple[int, list[Talk]] = (-1, [])

    def __len__(self) -> int:
        return self.conversations

    def __getitem__(self, number: int) -> dict[str, Any]:
        place = number % CONVERSATIONS
        start = self.first + number - place
        if self._drawn[0] != start:
            self._drawn = (start, _talks(start, self.kinds))
        one, images, seen = self._drawn[1][place]
        row = {"messages": conversation(one, images), "images": images, "pictures": one.pictures}
        return {**row, "turns": one.turns, "shown": seen}


def _progress(done: int, count: int) -> float:
    return min(1.0, max(0.0, done / count))


# A conversation, its pictures, and what their tokens show.
Talk = tuple[Example, list[Image.Image], Shown]


def _talks(number: int, kinds: Sequence[str]) -> list[Talk]:
    """`CONVERSATIONS` training examples, the first of which is row `number`."""
    difficulty = _progress(number - EASY_CONVERSATIONS, HARDENING_CONVERSATIONS)
    mixing = _progress(number - EASY_CONVERSATIONS - HARDENING_CONVERSATIONS, MIXING_CONVERSATIONS)
    rng = random.Random(f"vl2 train {number}")
    kind = _kind(rng, mixing, kinds)
    again = 1 if kind in ASKED_ONCE else CONVERSATIONS
    talks: list[Talk] = []
    while len(talks) < CONVERSATIONS:
        examples = _examples(rng, "train", difficulty, kind, again)
        pictures = examples[0].pictures
        images = [draw(picture) for picture in pictures]
        seen = shown(pictures)
        talks += [(one, images, seen) for one in examples]
    return talks


def tokenizer_texts(examples: int) -> Iterator[str]:
    """What the tokenizer learns its merges from: questions and answers without the strings that are to be read.

    Answers come several times, so that each word of theirs is one token: they are what has to be written.
    """
    for number in range(examples):
        one = example("train", number)
        for turn in one.turns:
            yield READ.sub("", turn.question)
            yield from [READ.sub("", turn.answer)] * ANSWERS_REPEATED
        yield from one.heads
