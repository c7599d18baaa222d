"""Where to look, asked of an early layer's attention: a second task for answering.

A question names a thing, and the answer is taken from the tokens that show it: a shape's color or box from the tokens
of the view of the whole that show the shape, the characters of a string one by one from those of the tiles, and what is
not there from nowhere. To find out from answers alone where to look takes tens of thousands of conversations, because
nothing is learned from looking at the right place before the rest of the model makes use of it. So some heads of the
second layer are told, those of the third where an answer goes on from there, and those of the first which words say
what is meant, as of `names`. No weights are added.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn

from nano.cells import HUES, THINGS
from nano.questions import Turn

from .cells import CHARACTERS, EDGES, IGNORED, SIDE, shapes_of, tile_characters, whole_middles, whole_shapes
from .clues import REF_END, clues, written_boxes
from .names import COLOR_WORDS, SPACE, last_words, names
from .pictures import STEP, Picture, corners
from .questions import NOTHING
from .sharing import Place

NAMING, LOOKING, FOLLOWING = 0, 1, 2  # layers that are told
TOLD = {"name": NAMING, "pointer": LOOKING, "following": FOLLOWING}
HEADS = (0, 1)  # of LOOKING and FOLLOWING
NEIGHBOR_HEAD = 3  # of NAMING
POINTER_WEIGHT = 1.0  # of each layer, beside the answers
MOST_HEADS = 4
DET_END = "<|/det|>"
LEAST = 1e-6  # of attention, so that its logarithm is one

# The number of a shape, or a string and the number of a character in it.
Thing = int | tuple[str, int]


@dataclass(frozen=True)
class Shown:
    """What the tokens of a picture show.

    Attributes:
        tokens: of each thing, counted from the picture's first one.
        middles: of each shape, the one token of the view of the whole in which its middle lies.
        boxes: the numbers of the shapes with each box, its edges in STEPs.
        shapes: of each shape its kind and its color, as indices into THINGS and HUES.
        characters: of each token of the tiles with text, as indices into THINGS, nothing after the last.
        slots: of each character, how many its token shows before it.
    """

    tokens: dict[Thing, list[int]]
    middles: dict[Thing, list[int]]
    boxes: dict[tuple[int, ...], list[int]]
    shapes: list[tuple[int, int]]
    characters: dict[int, tuple[int, ...]]
    slots: dict[Thing, int]


def shown(picture: Picture) -> Shown:
    """Shapes as the view of the whole shows them, characters as the tiles do."""
    tokens: dict[Thing, list[int]] = defaultdict(list)
    for place, number in enumerate(whole_shapes(picture)):
        if number:
            tokens[int(number) - 1].append(_in_whole(place))
    middles: dict[Thing, list[int]] = {
        number: [_in_whole(place)] for number, place in enumerate(whole_middles(picture))
    }
    first, width = SIDE * (SIDE + 1) + 1, picture.grid[0] * SIDE + 1
    characters: dict[int, list[int]] = defaultdict(list)
    slots: dict[Thing, int] = {}
    for text, number, column, row in tile_characters(picture):
        token = first + row * width + column
        tokens[text.text, number].append(token)
        slots[text.text, number] = len(characters[token])
        characters[token].append(THINGS.index(text.text[number]))
    boxes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, shape in enumerate(shapes_of(picture)):
        boxes[tuple(edge // STEP for edge in corners(shape, picture.width, picture.height))].append(number)
    shapes = [(THINGS.index(shape.shape), HUES.index(shape.color)) for shape in shapes_of(picture)]
    full = {token: (*found, *[0] * CHARACTERS)[:CHARACTERS] for token, found in characters.items()}
    return Shown(dict(tokens), middles, dict(boxes), shapes, full, slots)


def _in_whole(place: int) -> int:
    return place + place // SIDE  # a newline stands after each row


@dataclass(frozen=True)
class Look:
    """What a token of a conversation is to look at.

    Attributes:
        number: the token's place.
        things: in equal shares; NOTHING stands for the first token of all.
        layer: LOOKING or FOLLOWING.
        counted: whether it is at their middles alone, so that large things weigh no more than small ones.
        following: what is written next, where something is looked at by what was written last.
    """

    number: int
    things: Sequence[Thing]
    layer: int = LOOKING
    counted: bool = False
    following: Thing | None = None


def looks(tokens: Sequence[str], answered: Sequence[bool], turns: Sequence[Turn], seen: Shown) -> Iterator[Look]:
    """Which tokens of a conversation are to look at which things.

    Where things are counted NOTHING has a share, too, which is the smaller the more there are. Of two things of which
    one is seen from the other, each is looked at from its name, so that a later layer has both places.

    Args:
        tokens: as the tokenizer writes them.
        answered: whether each is of an answer.
        turns: what is asked in the conversation.
        seen: in its picture.
    """
    for number, edges in clues(tokens, answered):
        if tuple(edges) in seen.boxes:
            yield Look(number, seen.boxes[tuple(edges)])
    question = 0
    for turn, (begin, end) in zip(turns, spans(answered), strict=True):
        if turn.about == (NOTHING,):
            name = max(number for number in range(begin) if tokens[number] == REF_END)
            yield from (Look(number, [NOTHING]) for number in (name - 1, name, begin - 1))
        elif turn.about and turn.kind == "count":
            counted = [thing for thing in turn.about if isinstance(thing, int)]
            yield Look(begin - 1, [NOTHING, *counted], counted=True)
        elif turn.kind == "relation":
            yield from _of_relation(tokens, question, begin, turn)
        elif turn.about:
            yield from _of_answer(tokens[begin : end - 1], begin - 1, turn, seen)
        for place, following in _ends(tokens[begin:end], turn.kind):
            yield Look(begin + place, seen.boxes.get(following, [NOTHING]))
        question = end


def _of_relation(tokens: Sequence[str], question: int, answer: int, turn: Turn) -> Iterator[Look]:
    """From the last word of either name; in Chinese nothing is told."""
    words = last_words(tokens, question, answer)
    things = turn.about if "," not in tokens[question:answer] else turn.about[::-1]  # seen from that, where is this
    if len(words) == len(things):
        yield from (Look(word, [_thing(thing)]) for word, thing in zip(words, things, strict=True))


def _thing(meant: int | str) -> Thing:
    return meant if isinstance(meant, int) else (meant, 0)


def _ends(words: Sequence[str], kind: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Words of an answer from which it goes on to another box or ends, and the edges of that box, none at the end."""
    boxes = [(first, tuple(edges)) for first, edges in written_boxes(words)]
    for (first, _), (_, following) in pairwise([*boxes, (len(words), ())]):
        last = first + EDGES - 1
        yield (words.index(DET_END, last) if kind == "caption" else last), following


def spans(answered: Sequence[bool]) -> list[tuple[int, int]]:
    """Begin and end of each answer. The first token, which nothing writes, may count as answered."""
    padded = [False, *answered[1:], False]
    edges = [number for number in range(1, len(padded)) if padded[number] != padded[number - 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _of_answer(words: Sequence[str], before: int, turn: Turn, seen: Shown) -> Iterator[Look]:
    """Of the words of an answer, each of which the token before it writes."""
    parts = turn.answer.split(", ")
    starts = [*accumulate(map(len, words), initial=0)]
    plain = len(parts) == len(turn.about) and starts[-1] == len(turn.answer)  # neither a number of things nor Chinese
    if not plain or (turn.kind != "describe" and parts != [*turn.about]):
        yield from (Look(before + number, [*map(_thing, turn.about)]) for number in range(len(words)))
        return
    characters = _characters(parts, turn.about)
    taken = [
        next((thing for thing in characters[start:end] if thing is not None), None) for start, end in pairwise(starts)
    ]
    # A word for a color does not show which thing was the last.
    colors = {number for number, word in enumerate(words, 1) if word.removeprefix(SPACE) in COLOR_WORDS}
    yield from (look for number, look in _step_by_step(taken, before, seen) if number not in colors)


def _step_by_step(taken: Sequence[Thing | None], before: int, seen: Shown) -> Iterator[tuple[int, Look]]:
    """Numbers of words that are taken from one thing after the other, or from none, and of the end, and their looks.

    LOOKING finds by what is written already what was the last, FOLLOWING goes on from there: to the next thing, or in
    a string to the next token, because what the same one shows was seen already. At the beginning LOOKING looks at the
    first, and of things FOLLOWING, too.
    """
    last = None
    for number in range(len(taken) + 1):
        following = next((thing for thing in taken[number:] if thing is not None), NOTHING)
        if number == 0 or last is not None:
            looked = following if last is None else last
            yield number, Look(before + number, [looked], following=following)
            yield number, Look(before + number, _further(looked, following, seen), FOLLOWING)
        if number < len(taken) and taken[number] not in (None, *taken[number + 1 :]):
            last = taken[number]


def _further(last: Thing, following: Thing, seen: Shown) -> list[Thing]:
    """What comes after the last thing: the next shape, or the next token's first character of the same string."""
    if isinstance(last, int):
        return [following]
    string, number = last
    if isinstance(following, tuple) and following[0] != string:
        return []  # where the next line is, is not told
    here = seen.tokens.get(last)
    later = [(string, each) for each in range(number + 1, len(string)) if seen.tokens.get((string, each)) != here]
    return [*later[:1]] or [NOTHING]


def _characters(parts: Sequence[str], about: Sequence[int | str]) -> list[Thing | None]:
    """For each character of an answer what it is taken from."""
    found: list[Thing | None] = []
    for part, thing in zip(parts, about, strict=True):
        found += [None] * (2 if found else 0)
        found += [thing if isinstance(thing, int) else (thing, number) for number in range(len(part))]
    return found


@dataclass(frozen=True)
class Pointer:
    """What a token is to look at: one of several places of its conversation.

    Attributes:
        conversation: of the batch.
        number: the token's place.
        places: of what it is to look at.
        layer: NAMING, LOOKING or FOLLOWING.
        heads: that are told; their mean counts.
        weight: of this pointer.
        shape: kind and color of what it is to see, if that is one shape.
        characters: that it is to see, if that is one token with text.
        slot: of the character that is written next, in the token that shows it.
        count: of the things, where they are counted.
    """

    conversation: int
    number: int
    places: list[int]
    layer: int = LOOKING
    heads: tuple[int, ...] = HEADS
    weight: float = 1.0
    shape: tuple[int, int] = (IGNORED, IGNORED)
    characters: tuple[int, ...] = (IGNORED,) * CHARACTERS
    slot: int = IGNORED
    count: int = IGNORED


def find_pointers(tokenizer: Any, batch: Any, rows: Sequence[dict[str, Any]], image_token_id: int) -> list[Pointer]:
    """`looks` of a batch, and what the first layer is told.

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
        looked = [*looks(tokens, answered, row["turns"], row["shown"])]
        for look in looked:
            found += _pointed(number, look, row["shown"], first)
        found += _names(number, tokens, answered, row["turns"], looked)
        found += _neighbors(number, row["shown"], first)
    return found


def _neighbors(conversation: int, seen: Shown, first: int) -> Iterator[Pointer]:
    """Tokens that show text look at the one before, so that FOLLOWING finds the next one by what this one shows."""
    for token in seen.characters:
        yield Pointer(conversation, first + token, [first + token - 1], NAMING, (NEIGHBOR_HEAD,))


def _pointed(conversation: int, look: Look, seen: Shown, first: int) -> list[Pointer]:
    """At each of the things in a picture whose first token is given."""
    tokens = seen.middles if look.counted else seen.tokens
    known = [thing for thing in look.things if thing == NOTHING or thing in tokens]
    pointer = Pointer(conversation, look.number, [0], look.layer, weight=1 / max(1, len(known)))
    found = [
        pointer if thing == NOTHING else replace(pointer, places=[first + each for each in tokens[thing]])
        for thing in known
    ]
    if look.counted:
        return [replace(found[0], count=len(look.things) - 1), *found[1:]]
    if len(known) == 1 and look.layer == LOOKING:
        (only,) = known
        if isinstance(only, tuple):
            slot = seen.slots.get(look.following, IGNORED) if look.following is not None else IGNORED
            characters = seen.characters[seen.tokens[only][0]]
            return [replace(found[0], characters=characters, slot=slot if slot < CHARACTERS else IGNORED)]
        if only != NOTHING:
            return [replace(found[0], shape=seen.shapes[only])]
    return found


def _names(
    conversation: int, tokens: Sequence[str], answered: Sequence[bool], turns: Sequence[Turn], looked: Sequence[Look]
) -> list[Pointer]:
    """What the first layer is told where the second one looks."""
    askers, question = sorted({look.number for look in looked if look.layer == LOOKING}), 0
    found: list[Pointer] = []
    for turn, (begin, end) in zip(turns, spans(answered), strict=True):
        found += [
            Pointer(conversation, asker, places, NAMING, (head,))
            for asker, head, places in names(
                tokens, question, begin, turn, [asker for asker in askers if question <= asker < end]
            )
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
        weights [pointers, heads]; `shapes`: uint8 [pointers, 2], a shape's kind and color, or IGNORED; `characters`:
        uint8 [pointers, CHARACTERS], `slots` and `counts`: uint8 [pointers], likewise.
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
    return {
        "lookers": torch.tensor(lookers).reshape(-1, 3).T,
        "looked_at": looked_at,
        "looks": looks,
        "shapes": torch.tensor([pointer.shape for pointer in found], dtype=torch.uint8).reshape(-1, 2),
        "characters": torch.tensor([each.characters for each in found], dtype=torch.uint8).reshape(-1, CHARACTERS),
        "slots": torch.tensor([each.slot for each in found], dtype=torch.uint8),
        "counts": torch.tensor([each.count for each in found], dtype=torch.uint8),
    }


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
