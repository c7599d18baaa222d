"""Where to look, asked of an early layer's attention: a second task for answering.

To find out from answers alone where to look takes tens of thousands of conversations, because nothing is learned from
looking at the right place before the rest of the model makes use of it. So some heads of the second layer are told,
those of the third where an answer goes on from there, and those of the first which words say what is meant, as of
`names`, and what stands beside a thing. No weights are added.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from nano.cells import THINGS
from nano.questions import Turn
from nano.scenes import SHAPES

from .cells import CHARACTERS, IGNORED
from .looks import FOLLOWING, LOOKING, NAMING, Look, compared, looks, places_of
from .names import PICTURE_HEAD, commas, names, picture_numbers
from .questions import NOTHING
from .sharing import Place
from .shown import Shown

TOLD = {"name": NAMING, "pointer": LOOKING, "following": FOLLOWING}
HEADS = (0, 1)  # of LOOKING and FOLLOWING
# Of both, where things are counted: shares are to be exact, and the mean of more heads errs less.
COUNTERS = (0, 1, 2, 3)
LINK_HEAD, NEIGHBOR_HEAD = 2, 3  # of NAMING
COUNTING_HEAD = NEIGHBOR_HEAD  # of NAMING, where there is no text
COMPARING_HEADS = (2, 3)  # of FOLLOWING
POINTER_WEIGHT = 1.0  # of each layer, beside the answers
MOST_HEADS = 4
LEAST = 1e-6  # of attention, so that its logarithm is one


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
        ids, answered = batch["input_ids"][number].tolist(), (batch["labels"][number] >= 0).tolist()
        tokens = tokenizer.convert_ids_to_tokens(ids)
        spots = [place for place, token in enumerate(ids) if token == image_token_id]
        looked = [*looks(tokens, answered, row["turns"], row["shown"])]
        for look in looked:
            found += _pointed(number, look, row["shown"], spots)
        found += _names(number, tokens, answered, row["turns"], looked)
        found += _beside(number, row["shown"], spots)
        found += _named_so_far(number, tokens, answered, row["turns"])
        found += _compared(number, tokens, answered, row["turns"])
        if row["shown"].pictures > 1:
            found += _numbers(number, row["shown"], spots, tokens)
        else:
            found += _before(number, row["shown"], spots)
    return found


def _beside(conversation: int, seen: Shown, spots: Sequence[int]) -> Iterator[Pointer]:
    """Tokens that show text look at the one before, so that FOLLOWING finds the next one by what this one shows.

    Within a string it is the one that shows the character before: between large characters there are tokens with parts
    of them alone. And what is linked looks where it is linked to.
    """
    for (string, number), slot in seen.slots.items():
        if slot == 0:
            (token,) = seen.tokens[string, number][:1]
            (before,) = seen.tokens.get((string, number - 1), [token - 1])[-1:]
            yield Pointer(conversation, spots[token], [spots[before]], NAMING, (NEIGHBOR_HEAD,))
    for token, linked in seen.links.items():
        yield Pointer(conversation, spots[token], [spots[each] for each in linked], NAMING, (LINK_HEAD,))


def _before(conversation: int, seen: Shown, spots: Sequence[int]) -> Iterator[Pointer]:
    """The tokens of shapes' middles look at those before them, so that they know how many these are."""
    shapes = [number for number, (kind, _) in enumerate(seen.shapes) if THINGS[kind] in SHAPES]
    middles = sorted({token for number in shapes for token in seen.middles[number]})
    for count, token in enumerate(middles):
        yield from _counted(conversation, spots[token], [spots[each] for each in middles[:count]])


def _named_so_far(
    conversation: int, tokens: Sequence[str], answered: Sequence[bool], turns: Sequence[Turn]
) -> Iterator[Pointer]:
    """The words of a description look at the commas before, so that they know how many things were named."""
    for turn, _, begin, end in places_of(turns, answered):
        if turn.kind == "describe":
            marks = [mark.stop - 1 for mark in commas(tokens, begin, end - 1)]
            for number in range(begin - 1, end - 1):
                yield from _counted(conversation, number, [mark for mark in marks if mark <= number])


def _compared(
    conversation: int, tokens: Sequence[str], answered: Sequence[bool], turns: Sequence[Turn]
) -> Iterator[Pointer]:
    """Where one thing is, seen from another, is said by their names, which looked at them: there is a head for each."""
    for turn, question, begin, _ in places_of(turns, answered):
        if turn.kind == "relation":
            for head, word in zip(COMPARING_HEADS, compared(tokens, question, begin), strict=False):
                yield Pointer(conversation, begin - 1, [word], FOLLOWING, (head,))


def _counted(conversation: int, number: int, places: Sequence[int]) -> Iterator[Pointer]:
    """At those and at the first token of all, in equal shares: the more there are, the less the first one has."""
    weight = 1 / (1 + len(places))
    for place in (0, *places):
        yield Pointer(conversation, number, [place], NAMING, (COUNTING_HEAD,), weight)


def _numbers(conversation: int, seen: Shown, spots: Sequence[int], tokens: Sequence[str]) -> Iterator[Pointer]:
    """Tokens that show things in one of several pictures look at the number in front of it, if there are numbers."""
    for token in {token for places in seen.tokens.values() for token in places}:
        before = picture_numbers(tokens, 0, spots[token])
        if before:
            yield Pointer(conversation, spots[token], before[-1:], NAMING, (PICTURE_HEAD,))


def _pointed(conversation: int, look: Look, seen: Shown, spots: Sequence[int]) -> list[Pointer]:
    """At each of the things in pictures whose tokens' places are given."""
    tokens = seen.middles if look.middles else seen.tokens
    known = [thing for thing in look.things if thing == NOTHING or thing in tokens]
    heads = COUNTERS if look.counted else HEADS
    pointer = Pointer(conversation, look.number, [0], look.layer, heads, weight=1 / max(1, len(known)))
    found = [
        pointer if thing == NOTHING else replace(pointer, places=[spots[each] for each in tokens[thing]])
        for thing in known
    ]
    if look.counted and look.layer == LOOKING:
        return [replace(found[0], count=len(look.things) - 1), *found[1:]]
    if len(known) == 1 and look.layer == LOOKING:
        (only,) = known
        if isinstance(only, tuple):
            slot = seen.slots.get(look.following, IGNORED) if isinstance(look.following, tuple) else IGNORED
            characters = seen.characters[seen.tokens[only][0]]
            return [replace(found[0], characters=characters, slot=slot if slot < CHARACTERS else IGNORED)]
        if only != NOTHING:
            return [replace(found[0], shape=seen.shapes[only])]
    return found


def _names(
    conversation: int, tokens: Sequence[str], answered: Sequence[bool], turns: Sequence[Turn], looked: Sequence[Look]
) -> list[Pointer]:
    """What the first layer is told where the second one looks."""
    askers = sorted({look.number for look in looked if look.layer == LOOKING})
    found: list[Pointer] = []
    for turn, question, begin, end in places_of(turns, answered):
        found += [
            Pointer(conversation, asker, places, NAMING, (head,))
            for asker, head, places in names(
                tokens, question, begin, turn, [asker for asker in askers if question <= asker < end]
            )
        ]
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
