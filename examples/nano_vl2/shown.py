"""What each token of a picture shows: shapes in the view of the whole, characters and bars of charts in the tiles."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from nano.cells import HUES, THINGS, is_bar
from nano.drawing import Box
from nano.scenes import Text

from .cells import (
    CHARACTERS,
    SIDE,
    shapes_of,
    tile_characters,
    tile_place,
    tile_scale,
    whole_characters,
    whole_middles,
    whole_shapes,
)
from .pictures import STEP, Picture, corners

Character = tuple[str, int]  # a string and the number of a character in it
Thing = int | Character  # the number of a shape or of a bar, or a character
# Pixels of tiles, from which on text is looked at in the view of the whole: a token shows parts of characters alone.
LARGE = 40
UNTILED = 3  # pictures, from which on none is cut into tiles
WHOLE = SIDE * (SIDE + 1)  # tokens: a newline stands after each row


@dataclass(frozen=True)
class Shown:
    """What the tokens of a picture show, or of several ones, which are counted on from one to the next.

    Attributes:
        tokens: of each thing, counted from the first picture's first one.
        middles: of each shape and of each character that can be read there, the one token of the view of the whole in
            which its middle lies; of each bar its token.
        boxes: the numbers of the shapes with each box, its edges in STEPs.
        shapes: of each shape or bar its kind and its color, as indices into THINGS and HUES.
        characters: of each token with text that is looked at, as indices into THINGS, nothing after the last.
        slots: of each character, how many its token shows before it.
        links: to which tokens before it, or to itself, a token is to look for what belongs to what it shows.
        pictures: how many there are.
    """

    tokens: dict[Thing, list[int]] = field(default_factory=dict)
    middles: dict[Thing, list[int]] = field(default_factory=dict)
    boxes: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    characters: dict[int, tuple[int, ...]] = field(default_factory=dict)
    slots: dict[Character, int] = field(default_factory=dict)
    links: dict[int, list[int]] = field(default_factory=dict)
    pictures: int = 1


def shown(pictures: Sequence[Picture]) -> Shown:
    """Shapes and large text as the view of the whole shows them, other text and bars as the tiles do.

    Args:
        pictures: of one conversation; of several ones the shapes alone are of interest.
    """
    if len(pictures) == 1:
        return _shown(pictures[0])
    tokens: dict[Thing, list[int]] = {}
    middles: dict[Thing, list[int]] = {}
    shapes: list[tuple[int, int]] = []
    start = 0
    for picture in pictures:
        seen, known = _shown(picture), len(shapes)
        for found, more in ((tokens, seen.tokens), (middles, seen.middles)):
            found |= {known + n: [start + token for token in more[n]] for n in range(len(seen.shapes)) if n in more}
        shapes += seen.shapes
        start += _num_tokens((1, 1) if len(pictures) >= UNTILED else picture.grid)
    return Shown(tokens, middles, shapes=shapes, pictures=len(pictures))


def _shown(picture: Picture) -> Shown:
    tokens: dict[Thing, list[int]] = defaultdict(list)
    for place, number in enumerate(whole_shapes(picture)):
        if number:
            tokens[int(number) - 1].append(_in_whole(place))
    middles: dict[Thing, list[int]] = {
        number: [_in_whole(place)] for number, place in enumerate(whole_middles(picture))
    }
    characters: dict[int, list[int]] = defaultdict(list)
    slots: dict[Character, int] = {}
    for text, number, token in _read(picture):
        tokens[text.text, number].append(token)
        slots[text.text, number] = len(characters[token])
        characters[token].append(THINGS.index(text.text[number]))
    for text, number, column, row in whole_characters(picture):
        middles[text.text, number] = [_in_whole(row * SIDE + column)]
        if len(text.text) == 1:
            tokens[text.text, number] += middles[text.text, number]  # nothing tells which of both it is to be
    boxes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, shape in enumerate(shapes_of(picture)):
        boxes[tuple(edge // STEP for edge in corners(shape, picture.width, picture.height))].append(number)
    shapes = [(THINGS.index(shape.shape), HUES.index(shape.color)) for shape in shapes_of(picture)]
    full = {token: (*found, *[0] * CHARACTERS)[:CHARACTERS] for token, found in characters.items()}
    seen = Shown(dict(tokens), middles, dict(boxes), shapes, full, slots)
    if bars := [*_bars(picture)]:
        for number, bar in enumerate(bars):
            _add_bar(seen, picture, number, *bar)
    else:
        seen.links.update(_line_links(picture))
    return seen


def _read(picture: Picture) -> Iterator[tuple[Text, int, int]]:
    """The texts' characters and their tokens: large lines as the view of the whole shows them, the others in tiles."""
    for text, number, column, row in whole_characters(picture):
        if _large(text, picture):
            yield text, number, _in_whole(row * SIDE + column)
    for text, number, column, row in tile_characters(picture):
        if not _large(text, picture):
            yield text, number, _in_tiles(picture, column, row)


def _large(text: Text, picture: Picture) -> bool:
    return len(text.text) > 1 and picture.grid != (1, 1) and text.size * tile_scale(picture) >= LARGE


def _in_whole(place: int) -> int:
    return place + place // SIDE


def _in_tiles(picture: Picture, column: int, row: int) -> int:
    """The token; a separator stands before those of the tiles, a newline after each row of all tiles."""
    return WHOLE + 1 + row * (picture.grid[0] * SIDE + 1) + column


def _num_tokens(grid: tuple[int, int]) -> int:
    return WHOLE + 1 + grid[1] * SIDE * (grid[0] * SIDE + 1)


def _bars(picture: Picture) -> Iterator[tuple[Box, str, str]]:
    """Of a chart each bar, its value and its label, which `nano.drawing` draws one after the other."""
    for number, part in enumerate(picture.parts):
        if isinstance(part, Box) and is_bar(part):
            value, label = picture.parts[number + 1 : number + 3]
            yield part, value.text, label.text  # type: ignore[union-attr]


def _add_bar(seen: Shown, picture: Picture, number: int, bar: Box, value: str, label: str) -> None:
    """A bar is looked at where it ends, and its value is linked there; the bar's lower end is linked to the label.

    Tokens look back, so it is the last one of its upper end and its value.
    """
    column, top = tile_place(picture, (bar.left + bar.right) / 2, bar.top)
    _, bottom = tile_place(picture, bar.left, bar.bottom - 1)
    above, below = (
        sorted({token for n in range(len(text)) for token in seen.tokens.get((text, n), [])}) for text in (value, label)
    )
    token = max(_in_tiles(picture, column, top), *above)
    seen.tokens[number] = seen.middles[number] = [token]
    seen.shapes.append((THINGS.index("bar"), HUES.index(bar.color)))
    seen.links[token] = above
    for each in below:
        seen.links[each] = [min(_in_tiles(picture, column, bottom), each)]


def _line_links(picture: Picture) -> Iterator[tuple[int, list[int]]]:
    """Of each line of text, or cell of a table, the first token with the last one of what stands before."""
    lines = [[token for _, _, token in line] for _, line in groupby(_read(picture), lambda read: read[0])]
    return ((here[0], [before[-1]]) for before, here in pairwise(lines) if before[-1] <= here[0])
