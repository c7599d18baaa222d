"""Conversations about the same pictures as branches of one sequence, so that the pictures' tokens are computed once.

A token sees its pictures and what came before it in its own conversation, at the positions that these have there, so
that nothing changes but the time. The branches of a batch are put one after the other in as many rows as hold them
without much padding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from deepseek_vl_hf.models.steps import IGNORED as NO_LABEL

from .cells import IGNORED as NO_BOX

LENGTHS = 32  # rows are multiples of so many tokens long: products are prepared anew for each length


@dataclass(frozen=True)
class Tree:
    """Conversations about the same pictures.

    Attributes:
        rows: which conversations of the batch they are.
        shared: tokens at the beginning that all have, up to the end of the last picture.
        lengths: tokens of each conversation.
    """

    rows: list[int]
    shared: int
    lengths: list[int]

    def __len__(self) -> int:
        return self.shared + sum(length - self.shared for length in self.lengths)

    def places(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For each token [tokens]: its conversation, its position there, and its branch, 0 for what is shared."""
        source, position = [self.rows[0]] * self.shared, [*range(self.shared)]
        branches = [0] * self.shared
        for branch, (row, length) in enumerate(zip(self.rows, self.lengths, strict=True), 1):
            count = length - self.shared
            source += [row] * count
            position += range(self.shared, length)
            branches += [branch] * count
        return torch.tensor(source), torch.tensor(position), torch.tensor(branches)


def find_trees(input_ids: torch.Tensor, mask: torch.Tensor, image_token_id: int, pictures: list[Any]) -> list[Tree]:
    """Which conversations share their pictures.

    Args:
        input_ids: [conversations, sequence].
        mask: [conversations, sequence], 0 at padding.
        image_token_id: stands at the places of pictures.
        pictures: what tells those of one conversation from those of another one.

    Raises:
        ValueError: conversations about the same pictures begin in different ways.
    """
    lengths = mask.sum(-1).tolist()
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(pictures):
        groups.setdefault(key, []).append(row)
    trees = []
    for rows in groups.values():
        shared = int((input_ids[rows[0]] == image_token_id).nonzero().max()) + 1
        if (input_ids[rows, :shared] != input_ids[rows[0], :shared]).any():
            raise ValueError(f"Found different beginnings of conversations {rows}, which share their pictures.")
        trees.append(Tree(rows, shared, [lengths[row] for row in rows]))
    return trees


def in_rows(trees: list[Tree]) -> list[list[Tree]]:
    """Trees by rows: the longest first, each where there is the most room."""
    longest = max(map(len, trees))
    rows: list[list[Tree]] = [[] for _ in range(-(-sum(map(len, trees)) // longest))]
    for tree in sorted(trees, key=len, reverse=True):
        min(rows, key=lambda row: sum(map(len, row))).append(tree)
    return rows


@dataclass(frozen=True)
class Place:
    """Where a conversation was put."""

    row: int
    begin: int
    shared: int
    branch: int

    def of(self, number: int) -> tuple[int, int]:
        """The row, and the place there, of one of the conversation's tokens."""
        return self.row, (self.begin if number < self.shared else self.branch) + number


def places(rows: list[list[Tree]]) -> dict[int, Place]:
    """Of each conversation, where `share` puts it."""
    found: dict[int, Place] = {}
    for number, row in enumerate(rows):
        start = 0
        for tree in row:
            branch = start
            for conversation, length in zip(tree.rows, tree.lengths, strict=True):
                found[conversation] = Place(number, start, tree.shared, branch)
                branch += length - tree.shared
            start += len(tree)
    return found


def share(batch: dict[str, torch.Tensor], rows: list[list[Tree]]) -> dict[str, torch.Tensor]:
    """A batch with a row of trees where it had one conversation per row.

    Args:
        batch: `input_ids`, `labels` [conversations, sequence] and `boxes` [conversations, sequence, edges].
        rows: of `in_rows`.

    Returns:
        `input_ids`, `position_ids`, `labels`, `logits_to_keep`, `members` (tokens beside padding) [rows, sequence],
        `boxes` [rows, sequence, edges], and `attention_mask` [rows, 1, sequence, sequence], to be added to scores.
    """
    width = -(-max(sum(map(len, row)) for row in rows) // LENGTHS) * LENGTHS
    ids = batch["input_ids"].new_zeros(len(rows), width)
    positions, trees, branches = torch.zeros_like(ids), torch.full_like(ids, -1), torch.zeros_like(ids)
    labels = torch.full_like(ids, NO_LABEL)
    boxes = batch["boxes"].new_full((*ids.shape, batch["boxes"].shape[-1]), NO_BOX)
    for number, row in enumerate(rows):
        start = 0
        for which, tree in enumerate(row):
            source, place, branch = tree.places()
            here = (number, slice(start, start + len(tree)))
            ids[here], positions[here], trees[here], branches[here] = (
                batch["input_ids"][source, place],
                place,
                which,
                branch,
            )
            labels[here], boxes[here] = batch["labels"][source, place], batch["boxes"][source, place]
            start += len(tree)
    labels[positions == 0] = NO_LABEL
    return {
        "input_ids": ids,
        "position_ids": positions,
        "labels": labels,
        "logits_to_keep": functional.pad(labels[:, 1:] != NO_LABEL, (0, 1)),
        "boxes": boxes,
        "members": trees >= 0,
        "attention_mask": _mask(trees, branches),
    }


def _mask(trees: torch.Tensor, branches: torch.Tensor) -> torch.Tensor:
    width = trees.shape[1]
    seen = torch.ones(width, width, dtype=torch.bool).tril()
    seen = seen & (trees[:, :, None] == trees[:, None])
    seen &= (branches[:, None] == 0) | (branches[:, :, None] == branches[:, None])
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
