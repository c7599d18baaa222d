"""What and where things are, asked of an early layer: a second task for answering.

To write a box a model has to find the thing, to take its box from the thing's token, and to pick the edge that is due.
Learned from answers alone these steps wait for each other: 2,500 batches left it guessing among several things. So a
linear layer on what the second layer gives says all edges of the box, at each token that writes one and at the name
before it; wherever that layer is told to look at a shape, it says which shape and which color it is, and where things
are counted, how many. Of text it says which characters the token shows, and which of these is next: a token shows up to
four, and to find out which one is due is one step, to take it from the token the next. The layer is thrown away when
training is over.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nano.cells import HUES, THINGS

from .boards import MOST_SHAPES
from .cells import CHARACTERS, EDGES, IGNORED, PLACES, box_loss, entropy, thing_loss
from .pictures import STEP

LAYER = 1  # whose output is asked, counted from 0; what comes after it picks the edge
CLUE_WEIGHT = 1.0  # of the clues beside the answers
REF, REF_END, DET = "<|ref|>", "<|/ref|>", "<|det|>"
_BOX = re.compile(r"\[(\d+), (\d+), (\d+), (\d+)\]")


def clues(tokens: Sequence[str], answered: Sequence[bool]) -> Iterator[tuple[int, list[int]]]:
    """Which tokens of a conversation are to know which box.

    Args:
        tokens: as the tokenizer writes them; coordinates are words of their own, as of `model.coordinate_words`.
        answered: whether each is of an answer; boxes in questions are left out.

    Returns:
        Pairs of a token's place and left, top, right, bottom in STEPs.
    """
    place = _starts(tokens)
    for first, edges in written_boxes(tokens):
        if not answered[first]:
            continue
        known = [*range(first - 1, first + EDGES - 1)]  # each writes the next word
        head = "".join(tokens[:first]).removesuffix("[")
        if head.endswith(f"{REF_END}{DET}"):
            known += _of_name(head, place)
        yield from ((number, edges) for number in known)


def written_boxes(tokens: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
    """Boxes in questions and answers: place of the first of EDGES tokens; left, top, right, bottom in STEPs."""
    place = _starts(tokens)
    for match in _BOX.finditer("".join(tokens)):
        if match.start() in place:
            yield place[match.start()], [int(edge) // STEP for edge in match.groups()]


def _starts(tokens: Sequence[str]) -> dict[int, int]:
    """Where each token begins in the text that they make."""
    return {start: number for number, start in enumerate(accumulate(map(len, tokens), initial=0))}


def _of_name(head: str, place: dict[int, int]) -> list[int]:
    """Places from the name that `head` ends with up to the box.

    Of a name that the question has, its last word, there as well; of one that is said of the picture, every word.
    """
    end = len(head) - len(f"{REF_END}{DET}")
    begin = head.rindex(REF, 0, end)
    asked = head.rfind(head[begin : end + len(REF_END)], 0, begin)
    if asked < 0:
        return [*range(place[begin] - 1, place[end] + 3)]
    number = place[asked + end - begin]
    # Before the answer begins, too: there it turns out whether the thing is there.
    return [number - 1, number, place[begin] - 1, *range(place[end] - 1, place[end] + 3)]


def stack_clues(tokenizer: Any, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`clues` of a batch.

    Args:
        tokenizer: wrote the ids.
        input_ids: [batch, sequence].
        labels: [batch, sequence], -100 outside of answers.

    Returns:
        uint8 [batch, sequence, EDGES], IGNORED where nothing is asked.
    """
    stacked = torch.full((*input_ids.shape, EDGES), IGNORED, dtype=torch.uint8)
    for row, (ids, wanted) in enumerate(zip(input_ids.tolist(), labels.tolist(), strict=True)):
        answered = [label >= 0 for label in wanted]
        for number, edges in clues(tokenizer.convert_ids_to_tokens(ids), answered):
            stacked[row, number] = torch.tensor(edges, dtype=torch.uint8)
    return stacked


# Beside boxes: the loss of what is said, with labels that `ClueHead.losses` describes.
CLUES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "shapes": thing_loss,
    "characters": lambda said, labels: entropy(said.unflatten(-1, (CHARACTERS, -1)), labels),
    "slots": functional.cross_entropy,
    "counts": functional.cross_entropy,
}


class ClueHead(nn.Module):
    """Says the edges of boxes, shapes and colors, characters, slots and counts, from hidden states of a hook.

    Args:
        hidden_size: of the language model.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.edges = nn.Linear(hidden_size, EDGES * PLACES)
        self.shapes = nn.Linear(hidden_size, len(THINGS) + len(HUES))
        self.characters = nn.Linear(hidden_size, CHARACTERS * len(THINGS))
        self.slots = nn.Linear(hidden_size, CHARACTERS)
        self.counts = nn.Linear(hidden_size, MOST_SHAPES + 1)
        self._seen: torch.Tensor | None = None

    def see(self, layer: nn.Module, inputs: Any, hidden_states: torch.Tensor) -> None:
        """A forward hook of the layer that is asked."""
        self._seen = hidden_states

    def losses(self, boxes: torch.Tensor, lookers: torch.Tensor, **told: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross entropies by what is asked; 0 where nothing is.

        Args:
            boxes: as of `stack_clues`.
            lookers: long [3, pointers], layer, row and place, as of `pointers.stack_pointers`.
            told: `shapes` uint8 [pointers, 2], kind and color, `characters` uint8 [pointers, CHARACTERS], `slots` and
                `counts` uint8 [pointers], as of there; IGNORED where nothing is asked.
        """
        seen, self._seen = self._seen, None
        losses = dict.fromkeys(("boxes", *told), self.edges.weight.new_zeros(()))
        if seen is None:
            return losses
        if (asked := boxes[..., 0] != IGNORED).any():
            losses["boxes"] = box_loss(self.edges(seen[asked]).float(), boxes[asked])
        _, rows, places = lookers
        for name, labels in told.items():
            if (known := labels.reshape(len(labels), -1)[:, 0] != IGNORED).any():
                said = getattr(self, name)(seen[rows[known], places[known]]).float()
                losses[name] = CLUES[name](said, labels[known].long())
        return losses
