"""Where to look, asked of an early layer's attention: a second task for answering.

A question names a thing, and the answer is taken from the tokens that show it: a shape's color or box from the tokens
of the view of the whole that show the shape, the characters of a string one by one from those of the tiles, and what is
not there from nowhere. To find out from answers alone where to look takes tens of thousands of conversations, because
nothing is learned from looking at the right place before the rest of the model makes use of it. So some heads of the
second layer are told, and those of the first which words say what is meant, as of `names`. No weights are added.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn

from nano.cells import HUES, THINGS
from nano.questions import Turn

from .cells import EDGES, IGNORED, SIDE, shapes_of, tile_characters, whole_shapes
from .clues import REF_END, clues
from .names import names
from .pictures import STEP, Picture, corners
from .questions import NOTHING
from .sharing import Place

NAMING, LOOKING = 0, 1  # layers that are told
HEADS = (0, 1)  # of LOOKING, each of which is told the same
POINTER_WEIGHT = 1.0  # of either, beside the answers
MOST_HEADS = 4
DET_END = "<|/det|>"
_FIRST_EDGE = re.compile(r"\[\d+,")
LEAST = 1e-6  # of attention, so that its logarithm is one

# The number of a shape, or a string and the number of a character in it.
Thing = int | tuple[str, int]


@dataclass(frozen=True)
class Shown:
    """What the tokens of a picture show.

    Attributes:
        tokens: of each thing, counted from the picture's first one.
        boxes: the numbers of the shapes with each box, its edges in STEPs.
        shapes: of each shape its kind and its color, as indices into THINGS and HUES.
    """

    tokens: dict[Thing, list[int]]
    boxes: dict[tuple[int, ...], list[int]]
    shapes: list[tuple[int, int]]


def shown(picture: Picture) -> Shown:
    """Shapes as the view of the whole shows them, characters as the tiles do."""
    tokens: dict[Thing, list[int]] = defaultdict(list)
    for place, number in enumerate(whole_shapes(picture)):
        if number:
            tokens[int(number) - 1].append(place + place // SIDE)  # a newline stands after each row
    first, width = SIDE * (SIDE + 1) + 1, picture.grid[0] * SIDE + 1
    for text, number, column, row in tile_characters(picture):
        tokens[text.text, number].append(first + row * width + column)
    boxes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, shape in enumerate(shapes_of(picture)):
        boxes[tuple(edge // STEP for edge in corners(shape, picture.width, picture.height))].append(number)
    shapes = [(THINGS.index(shape.shape), HUES.index(shape.color)) for shape in shapes_of(picture)]
    return Shown(dict(tokens), dict(boxes), shapes)


def pointers(
    tokens: Sequence[str], answered: Sequence[bool], turns: Sequence[Turn], seen: Shown
) -> Iterator[tuple[int, list[Thing]]]:
    """Which tokens of a conversation are to look at which things.

    Args:
        tokens: as the tokenizer writes them.
        answered: whether each is of an answer.
        turns: what is asked in the conversation.
        seen: in its picture.

    Returns:
        Pairs of a token's place and things, in equal shares; NOTHING stands for the first token of all. It has a share
        where things are counted, too, which is the smaller the more there are.
    """
    for number, edges in clues(tokens, answered):
        if tuple(edges) in seen.boxes:
            yield number, list[Thing](seen.boxes[tuple(edges)])
    for turn, (begin, end) in zip(turns, spans(answered), strict=True):
        if turn.about == (NOTHING,):
            name = max(number for number in range(begin) if tokens[number] == REF_END)
            yield from ((number, list[Thing]([NOTHING])) for number in (name - 1, name, begin - 1))
        elif turn.about and turn.kind == "count":
            yield begin - 1, [NOTHING, *(thing for thing in turn.about if isinstance(thing, int))]
        elif turn.about:
            yield from _of_answer(tokens[begin : end - 1], begin - 1, turn)  # EOS is taken from nothing
        for place, following in _ends(tokens, begin, end, turn.kind):
            yield place, list[Thing](seen.boxes.get(following, [NOTHING]))


def _ends(tokens: Sequence[str], begin: int, end: int, kind: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Tokens of an answer from which it goes on to another box or ends, and the edges of that box, none at the end."""
    starts = [number for number in range(begin, end) if _FIRST_EDGE.fullmatch(tokens[number])]
    boxes = [tuple(int(edge.strip("[], ")) // STEP for edge in tokens[number : number + EDGES]) for number in starts]
    for number, following in zip(starts, [*boxes[1:], ()], strict=False):
        last = number + EDGES - 1
        yield (tokens.index(DET_END, last, end) if kind == "caption" else last), following


def spans(answered: Sequence[bool]) -> list[tuple[int, int]]:
    """Begin and end of each answer. The first token, which nothing writes, may count as answered."""
    padded = [False, *answered[1:], False]
    edges = [number for number in range(1, len(padded)) if padded[number] != padded[number - 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _of_answer(words: Sequence[str], before: int, turn: Turn) -> Iterator[tuple[int, list[Thing]]]:
    """Of the words of an answer, each of which the token before it writes."""
    parts = turn.answer.split(", ")
    starts = [*accumulate(map(len, words), initial=0)]
    if len(parts) != len(turn.about) or starts[-1] != len(turn.answer):  # a number of things, or Chinese
        meant: list[Thing] = [thing if isinstance(thing, int) else (thing, 0) for thing in turn.about]
        yield from ((before + number, meant) for number in range(len(words)))
        return
    characters = _characters(parts, turn.about)
    for number, (start, end) in enumerate(pairwise(starts)):
        things = [*dict.fromkeys(thing for thing in characters[start:end] if thing is not None)]
        yield before + number, things or [next(thing for thing in characters[end:] if thing is not None)]
    if turn.kind == "describe":
        yield before + len(words), [NOTHING]


def _characters(parts: Sequence[str], about: Sequence[int | str]) -> list[Thing | None]:
    """For each character of an answer what it is taken from."""
    found: list[Thing | None] = []
    for part, thing in zip(parts, about, strict=True):
        found += [None] * (2 if found else 0)
        if isinstance(thing, int):
            found += [thing] * len(part)
        elif thing == part:
            found += [(thing, number) for number in range(len(part))]
        else:
            found += [(thing, 0)] * len(part)
    return found


@dataclass(frozen=True)
class Pointer:
    """What a token is to look at: one of several places of its conversation.

    Attributes:
        conversation: of the batch.
        number: the token's place.
        places: of what it is to look at.
        layer: NAMING or LOOKING.
        heads: that are told; their mean counts.
        weight: of this pointer.
        shape: kind and color of what it is to see, if that is one shape.
    """

    conversation: int
    number: int
    places: list[int]
    layer: int = LOOKING
    heads: tuple[int, ...] = HEADS
    weight: float = 1.0
    shape: tuple[int, int] = (IGNORED, IGNORED)


def find_pointers(tokenizer: Any, batch: Any, rows: Sequence[dict[str, Any]], image_token_id: int) -> list[Pointer]:
    """`pointers` of a batch.

    Args:
        tokenizer: wrote the ids.
        batch: `input_ids` and `labels` [conversations, sequence].
        rows: of `AnsweringDataset`.
        image_token_id: stands at the places of pictures.
    """
    found: list[Pointer] = []
    for number, row in enumerate(rows):
        if row["shown"] is None:
            continue
        ids, answered = batch["input_ids"][number].tolist(), (batch["labels"][number] >= 0).tolist()
        first, tokens = ids.index(image_token_id), tokenizer.convert_ids_to_tokens(ids)
        for place, things in pointers(tokens, answered, row["turns"], row["shown"]):
            found += _looks(number, place, things, row["shown"], first)
        found += _names(number, tokens, answered, row["turns"])
    return found


def _looks(number: int, place: int, things: Sequence[Thing], seen: Shown, first: int) -> list[Pointer]:
    """At each of the things in a picture whose first token is given."""
    known = [thing for thing in things if thing == NOTHING or thing in seen.tokens]
    found: list[Pointer] = []
    for thing in known:
        places = [0] if thing == NOTHING else [first + each for each in seen.tokens[thing]]
        found.append(Pointer(number, place, places, weight=1 / len(known)))
    (only,) = known if len(known) == 1 else (NOTHING,)
    if isinstance(only, int) and only != NOTHING:
        return [replace(found[0], shape=seen.shapes[only])]
    return found


def _names(number: int, tokens: Sequence[str], answered: Sequence[bool], turns: Sequence[Turn]) -> list[Pointer]:
    """Of one conversation, what the first layer is told."""
    boxed, question = sorted(place for place, _ in clues(tokens, answered)), 0
    found: list[Pointer] = []
    for turn, (begin, end) in zip(turns, spans(answered), strict=True):
        known = [place for place in boxed if question <= place < end]
        known += [place for place, _ in _ends(tokens, begin, end, turn.kind)]
        found += [
            Pointer(number, asker, places, NAMING, (head,))
            for asker, head, places in names(tokens, question, begin, turn, known)
        ]
        question = end
    return found


def stack_pointers(found: Sequence[Pointer], places: dict[int, Place], width: int) -> dict[str, torch.Tensor]:
    """Pointers of a batch whose conversations `sharing` moved.

    Args:
        found: in places of the conversations.
        places: of `sharing.places`.
        width: of the rows.

    Returns:
        `lookers`: long [3, pointers], layer, row and place; `looked_at`: bool [pointers, width]; `looks`: the heads'
        weights [pointers, heads]; `shapes`: uint8 [pointers, 2], a shape's kind and color, or IGNORED.
    """
    looked_at = torch.zeros(len(found), width, dtype=torch.bool)
    moved = [
        (number, places[pointer.conversation].of(place)[1])
        for number, pointer in enumerate(found)
        for place in pointer.places
    ]
    looked_at[tuple(torch.tensor(moved).reshape(-1, 2).T)] = True
    shares = [pointer.weight / len(pointer.heads) for pointer in found]
    looks = torch.tensor(
        [
            [share * (head in pointer.heads) for head in range(MOST_HEADS)]
            for share, pointer in zip(shares, found, strict=True)
        ]
    ).reshape(-1, MOST_HEADS)
    lookers = [(pointer.layer, *places[pointer.conversation].of(pointer.number)) for pointer in found]
    shapes = torch.tensor([pointer.shape for pointer in found], dtype=torch.uint8).reshape(-1, 2)
    return {"lookers": torch.tensor(lookers).reshape(-1, 3).T, "looked_at": looked_at, "looks": looks, "shapes": shapes}


class Watch:
    """Keeps the attention of the layers that are told where to look, which hooks bring, for its loss."""

    def __init__(self) -> None:
        self._seen: dict[int, torch.Tensor] = {}

    def see(self, layer: int, attention: nn.Module, inputs: Any, outputs: Any) -> None:
        """A forward hook of the attention of that layer, which computes its weights."""
        self._seen[layer] = outputs[1]

    def loss(self, layer: int, lookers: torch.Tensor, looked_at: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
        """Cross entropy of what a layer's heads look at; the other arguments as of `stack_pointers`."""
        weights, asked = self._seen.pop(layer, None), lookers[0] == layer
        if weights is None or not asked.any():
            return looks.new_zeros(())
        _, rows, places = lookers[:, asked]
        seen, shares = (weights[rows, :, places].float() * looked_at[asked, None]).sum(-1), looks[asked]
        found = (seen[:, : shares.shape[1]] * shares).sum(-1) / shares.sum(-1)
        return -(shares.sum(-1) * (found + LEAST).log()).sum() / shares.sum()
