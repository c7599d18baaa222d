"""What and where things are, asked of an early layer: a second task for answering.

To write a box a model has to find the thing, to take its box from the thing's token, and to pick the edge that is due.
Learned from answers alone these steps wait for each other: 2,500 batches left it guessing among several things. So a
linear layer on what the second layer gives says all edges of the box, at each token that writes one and at the name
before it; and wherever that layer is told to look at a shape, it says which shape and which color it is. The layer is
thrown away when training is over.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from nano.cells import HUES, THINGS

from .cells import EDGES, IGNORED, PLACES, box_loss, thing_loss
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
    text, starts = "".join(tokens), [*accumulate(map(len, tokens), initial=0)]
    place = {start: number for number, start in enumerate(starts)}
    for match in _BOX.finditer(text):
        first = place.get(match.start())
        if first is None or not answered[first]:
            continue
        edges = [int(edge) // STEP for edge in match.groups()]
        known = [*range(first - 1, first + EDGES - 1)]  # each writes the next word
        head = text.removesuffix(text[match.start() :]).removesuffix("[")
        if head.endswith(f"{REF_END}{DET}"):
            known += _of_name(head, place)
        yield from ((number, edges) for number in known)


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


class ClueHead(nn.Module):
    """Says the edges of boxes, and shapes and colors, from hidden states, which a hook brings.

    Args:
        hidden_size: of the language model.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.edges = nn.Linear(hidden_size, EDGES * PLACES)
        self.shapes = nn.Linear(hidden_size, len(THINGS) + len(HUES))
        self._seen: torch.Tensor | None = None

    def see(self, layer: nn.Module, inputs: Any, hidden_states: torch.Tensor) -> None:
        """A forward hook of the layer that is asked."""
        self._seen = hidden_states

    def losses(
        self, boxes: torch.Tensor, lookers: torch.Tensor, shapes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropies of all edges that are asked, and of shapes with their colors.

        Args:
            boxes: as of `stack_clues`.
            lookers: long [3, pointers], layer, row and place, as of `pointers.stack_pointers`.
            shapes: uint8 [pointers, 2], as of there; IGNORED where nothing is asked.
        """
        seen, self._seen = self._seen, None
        asked, told = boxes[..., 0] != IGNORED, shapes[:, 0] != IGNORED
        nothing = self.edges.weight.new_zeros(())
        if seen is None:
            return nothing, nothing
        _, rows, places = lookers[:, told]
        return (
            box_loss(self.edges(seen[asked]).float(), boxes[asked]) if asked.any() else nothing,
            thing_loss(self.shapes(seen[rows, places]).float(), shapes[told].long()) if told.any() else nothing,
        )
