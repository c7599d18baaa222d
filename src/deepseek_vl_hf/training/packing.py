"""Which conversations stand together in a row of a batch, and what `Trainer` gets of them."""

import bisect
from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature

from .collator import ConversationCollator

Rows = Sequence[dict[str, Any]]


def packs_of(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Numbers of conversations, put together so that each pack is as full as one of the next lengths allows.

    The longest come first, each into the fullest pack that has room for it.

    Args:
        lengths: tokens of each conversation, none above the capacity.
        capacity: tokens of a pack.
    """
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # tokens left, number of the pack; in order
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        place = bisect.bisect_left(room, (lengths[number], -1))
        if place == len(room):
            packs.append([])
            left, pack = capacity, len(packs) - 1
        else:
            left, pack = room.pop(place)
        packs[pack].append(number)
        bisect.insort(room, (left - lengths[number], pack))
    return packs


class Packs(Sequence[list[dict[str, Any]]]):
    """The conversations of each pack, as a data set for `Trainer`.

    Args:
        rows: all conversations.
        packs: numbers of those that stand together; by default each by itself.
    """

    def __init__(self, rows: Rows, packs: Sequence[Sequence[int]] | None = None) -> None:
        self._rows = rows
        self._packs = [[number] for number in range(len(rows))] if packs is None else packs

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, index: Any) -> Any:
        """The conversations of one pack."""
        return [self._rows[number] for number in self._packs[index]]


class PackCollator:
    """Batches of packs, each batch with the `places` of its conversations, for errors.

    Args:
        collator: makes a batch of conversations.
    """

    def __init__(self, collator: ConversationCollator) -> None:
        self.collator = collator

    def __call__(self, packs: Sequence[Rows]) -> BatchFeature:
        """Makes one batch; errors are those of `ConversationCollator`."""
        rows = [row for pack in packs for row in pack]
        batch = self.collator(rows)
        batch["places"] = [row["place"] for row in rows]
        return batch
