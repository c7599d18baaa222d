"""What only DeepSeek-VL2 is asked: where things are, what is in a box, several pictures, tables as Markdown.

Places are written as the published models write them: `<|ref|>name<|/ref|><|det|>[[x1, y1, x2, y2]]<|/det|>`.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from nano.questions import Turn, Wordings, ask
from nano.scenes import COLORS, SHAPES, SIDE, Shape, ShapeScene

from .boards import Board, Table
from .cells import SIDE as TOKENS
from .cells import shapes_of, whole_middles
from .pictures import Picture, corners

# The kinds beside those of nano.
KINDS = ("find", "find_all", "absent", "caption", "region", "read_tiles", "table", "several", "in_context")
GROUNDING = "<|grounding|>"
CAPTION: Wordings = (f"{GROUNDING}Describe the picture.", f"{GROUNDING}What is in the picture?")
MARKDOWN: Wordings = ("Write the table as Markdown.", "Convert the table to Markdown.")
WHOLE: Wordings = ("What is written?", "Read the text.", "What is written in the picture?")
NOTHING = -1  # of a picture's shapes: what an answer is about that refuses
ALL_SHAPES = "all shapes"
# Of conversations that ask where things are: at the end everything is asked for, which can so be answered when parts of
# the answer were given. In the others no answer gives another one's box away.
EVERYTHING_SHARE = 0.15
SEPARATORS = (", ", "、")  # of things in an answer, in English and Chinese
MOST_FOUND = 3  # things that one conversation asks for


def boxes(shapes: list[Shape], board: Board) -> str:
    """`<|det|>[[x1, y1, x2, y2], ...]<|/det|>`, in the order of reading."""
    written = ", ".join(str(list(corners(shape, board.width, board.height))) for shape in in_order(shapes, board))
    return f"<|det|>[{written}]<|/det|>"


def in_order(shapes: list[Shape], board: Board) -> list[Shape]:
    """By thirds of the picture from the top, then from the left."""
    return sorted(shapes, key=lambda shape: (int(3 * shape.y / board.height), shape.x))


def about_shapes(board: Board, rng: random.Random) -> list[Turn]:
    """Questions about a board's shapes."""
    draw = rng.random()
    if draw < 0.18:
        return [_caption(board, rng), *_in_words(board, rng)[:2]]
    if draw < 0.34:
        return [_description(board, rng), *_in_words(board, rng)[:2]]
    if draw < 0.5:
        turns = [_region(shape, board, rng) for shape in board.shapes][:MOST_FOUND]
        return [*turns, *_absent(board, rng)[:1], *_in_words(board, rng)[:2]]
    found = _found(board, rng)
    turns = [*found, *_absent(board, rng)[: rng.randint(1, 2)], *_in_words(board, rng)[:2]]
    rng.shuffle(turns)
    if len(board.shapes) > 1 and rng.random() < EVERYTHING_SHARE:
        turns = [turn for turn in turns if ALL_SHAPES not in turn.question]
        turns.append(_boxed("find_all", ALL_SHAPES, list(board.shapes), board, rng))
    return turns


def _in_words(board: Board, rng: random.Random) -> list[Turn]:
    """What nano answers about shapes, apart from their places, which are those of a square."""
    scale = SIDE / max(board.width, board.height)
    shapes = tuple(replace(shape, x=round(scale * shape.x), y=round(scale * shape.y)) for shape in board.shapes)
    turns = ask(ShapeScene(board.background, shapes, None), rng)
    return [turn for turn in turns if turn.kind in {"color", "shape", "count", "relation"}]


def _found(board: Board, rng: random.Random) -> list[Turn]:
    """Single things and groups; none is in two answers."""
    groups = _groups(board)
    names = [(name, shapes) for name, shapes in groups.items()]
    rng.shuffle(names)
    # Groups of several are rare, so they come first in half of the conversations.
    if rng.random() < 0.5:
        names.sort(key=lambda pair: -len(pair[1]))
    taken: set[Shape] = set()
    turns: list[Turn] = []
    for name, shapes in names:
        if taken.isdisjoint(shapes) and len(turns) < MOST_FOUND:
            taken.update(shapes)
            kind = "find_all" if name.startswith("all ") else "find"
            turns.append(_boxed(kind, name, shapes, board, rng))
    return turns


def _boxed(kind: str, name: str, shapes: list[Shape], board: Board, rng: random.Random) -> Turn:
    return Turn(kind, _wanted(name, rng), f"<|ref|>{name}<|/ref|>{boxes(shapes, board)}")


def _wanted(name: str, rng: random.Random) -> str:
    return rng.choice(("{}", "{}", "Find {}.", "Where is {}?" if not name.startswith("all ") else "Locate {}.")).format(
        f"<|ref|>{name}<|/ref|>"
    )


def _groups(board: Board) -> dict[str, list[Shape]]:
    """Names that say plainly what is meant, with what they mean."""
    groups: dict[str, list[Shape]] = {}
    shapes = list(board.shapes)
    for (color, kind), number in Counter((shape.color, shape.shape) for shape in shapes).items():
        if number == 1:
            groups[f"the {color} {kind}"] = [shape for shape in shapes if (shape.color, shape.shape) == (color, kind)]
    for kind, number in Counter(shape.shape for shape in shapes).items():
        name = f"the {kind}" if number == 1 else f"all {plural(kind)}"
        groups[name] = [shape for shape in shapes if shape.shape == kind]
    for color, number in Counter(shape.color for shape in shapes).items():
        name = f"the {color} shape" if number == 1 else f"all {color} shapes"
        groups[name] = [shape for shape in shapes if shape.color == color]
    groups[ALL_SHAPES] = shapes
    return groups


def plural(kind: str) -> str:
    """Several of a kind: circles, crosses."""
    return "crosses" if kind == "cross" else f"{kind}s"


def _absent(board: Board, rng: random.Random) -> list[Turn]:
    """What is not there, often something of a color and a kind that are."""
    kinds, colors = {shape.shape for shape in board.shapes}, {shape.color for shape in board.shapes}
    there = {(shape.color, shape.shape) for shape in board.shapes}
    near = [(color, kind) for color in sorted(colors) for kind in sorted(kinds) if (color, kind) not in there]
    far = [(color, kind) for color in COLORS for kind in SHAPES if (color, kind) not in there]
    color, kind = rng.choice(near if near and rng.random() < 0.6 else far)
    single = Turn("absent", _wanted(f"the {color} {kind}", rng), f"There is no {color} {kind}.", (NOTHING,))
    missing = [kind for kind in SHAPES if kind not in kinds]
    kind = rng.choice(missing)
    group = Turn("absent", _wanted(f"all {plural(kind)}", rng), f"There are no {plural(kind)}.", (NOTHING,))
    return [single, group] if rng.random() < 0.7 else [group, single]


def described(shape: Shape) -> str:
    """The shape in words: a red circle, an orange star."""
    return f"{'an' if shape.color == 'orange' else 'a'} {shape.color} {shape.shape}"


def _caption(board: Board, rng: random.Random) -> Turn:
    named = [
        f"<|ref|>{described(shape)}<|/ref|>{boxes([shape], board)}" for shape in in_order(list(board.shapes), board)
    ]
    return Turn("caption", rng.choice(CAPTION), ", ".join(named))


def _description(board: Board, rng: random.Random) -> Turn:
    """The caption's names without boxes."""
    about, names = tuple(range(len(board.shapes))), ", ".join(map(described, board.shapes))
    return in_rows(Turn("describe", rng.choice(CAPTION).removeprefix(GROUNDING), names, about), board.picture)


def in_rows(turn: Turn, picture: Picture) -> Turn:
    """A description in the order of the view of the whole: by its rows of tokens from the top, then from the left.

    Without boxes nothing says what was named last but how many were named, so a thing's token has to know how many
    there are before it, and tokens see only those that come before them.
    """
    rows = [place // TOKENS for place in whole_middles(picture)]
    across = [shape.x for shape in shapes_of(picture)]
    between = next(mark for mark in SEPARATORS if mark in turn.answer or len(turn.about) == 1)
    named = zip(turn.about, turn.answer.split(between), strict=True)
    ordered = sorted(named, key=lambda pair: (rows[int(pair[0])], across[int(pair[0])]))
    about, names = zip(*ordered, strict=True)
    return replace(turn, answer=between.join(names), about=about)


def _region(shape: Shape, board: Board, rng: random.Random) -> Turn:
    wording = rng.choice(("What is in {}?", "What is this? {}"))
    about = (board.shapes.index(shape),)
    return Turn("region", wording.format(boxes([shape], board)), described(shape), about)


def about_texts(board: Board, rng: random.Random) -> list[Turn]:
    """What each line says; by its color where there are several."""
    if len(board.texts) == 1:
        return [Turn("read_tiles", rng.choice(WHOLE), board.texts[0].text, (board.texts[0].text,))]
    return [
        Turn(
            "read_tiles",
            rng.choice(("What does the {} text say?", "What is written in {}?")).format(text.color),
            text.text,
            (text.text,),
        )
        for text in board.texts
    ]


def about_table(table: Table, rng: random.Random) -> list[Turn]:
    """The table in Markdown."""
    cells = [cell for row in table.rows for cell in row]
    told_apart = len({*cells}) == len(cells)
    return [Turn("table", rng.choice(MARKDOWN), table.markdown, (*cells,) if told_apart else ())]


def about_several(boards: list[Board], rng: random.Random) -> list[Turn]:
    """Questions for which the right one of several pictures has to be found, named as `image_1`."""
    turns: list[Turn] = []
    kinds = Counter(kind for board in boards for kind in {shape.shape for shape in board.shapes})
    first = 0  # shapes are counted on from one picture to the next
    for number, board in enumerate(boards, 1):
        numbers = {shape: first + place for place, shape in enumerate(board.shapes)}
        first += len(numbers)
        count = f"How many shapes are in image_{number}?"
        turns.append(Turn("several", count, str(len(board.shapes)), (*numbers.values(),)))
        alone = [shape for shape in board.shapes if sum(other.shape == shape.shape for other in board.shapes) == 1]
        if alone:
            shape = rng.choice(alone)
            color = f"What color is the {shape.shape} in image_{number}?"
            turns.append(Turn("several", color, shape.color, (numbers[shape],)))
        own = [shape for shape in board.shapes if kinds[shape.shape] == 1]
        if own:
            kind = rng.choice(own).shape
            about = (*(numbers[shape] for shape in own if shape.shape == kind),)
            turns.append(Turn("several", f"Which image shows a {kind}?", f"image_{number}", about))
    rng.shuffle(turns)
    return turns[:4]


SAYINGS: tuple[Callable[[Board], str], ...] = (
    lambda board: described(board.shapes[0]),
    lambda board: board.shapes[0].color,
    lambda board: board.shapes[0].shape,
    lambda board: str(len(board.shapes)),
)


def example_in_context(boards: list[Board], rng: random.Random) -> tuple[list[str], Turn]:
    """What is said of all pictures but the last, and what is to be said of that one, without a question.

    One says the same of each: name, color, shape of the one thing in it, or how many things it holds. The examples
    differ, so that they say which of these it is.
    """
    alone = all(len(board.shapes) == 1 for board in boards)
    say = rng.choice(SAYINGS[:3]) if alone else SAYINGS[3]
    *said, answer = [say(board) for board in boards]
    first = sum(len(board.shapes) for board in boards[:-1])
    about = (*range(first, first + len(boards[-1].shapes)),)
    return said, Turn("in_context", "", answer, about)


def told_apart(boards: list[Board]) -> bool:
    """Whether pictures of one thing each differ in it, or the numbers of things do."""
    if all(len(board.shapes) == 1 for board in boards):
        return all(one.shapes[0].shape != other.shapes[0].shape for one, other in pairwise(boards))
    return len({len(board.shapes) for board in boards[:-1]}) > 1
