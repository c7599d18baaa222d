"""Conversations about drawn scenes, made on the fly: row N of a split is the same on every machine."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from .cells import label_points
from .drawing import View, draw_scene, random_view
from .questions import Turn, ask
from .scenes import AnyScene, page_scene, random_scene

# Strings, labels and numbers in a question or an answer.
READ = re.compile(r"[A-Z0-9]{2,}|\b[A-Z0-9](?![a-z])")
# Training begins with so many pictures without questions, most of them full of text: the towers learn to see.
LOOKING_PICTURES = 80_000
# Over the first of these, text grows from one style to all; later so many are pages, the others ordinary scenes.
VARIETY_PICTURES = 50_000
PAGE_SHARE = 0.6
# Pictures over which questions grow from easy ones to what the held-out ones are.
WARM_UP_PICTURES = 10_000


@dataclass(frozen=True)
class Example:
    """A scene and what is asked about it."""

    scene: AnyScene
    view: View
    turns: list[Turn]


def example(split: str, number: int, difficulty: float = 1.0) -> Example:
    """Row `number` of a split."""
    rng = random.Random(f"{split} {number}")
    scene = random_scene(rng, split, difficulty=difficulty)
    view = random_view(scene, rng)
    return Example(scene, view, ask(scene, rng, view))


def look(number: int) -> Example:
    """A training picture without questions."""
    rng = random.Random(f"look {number}")
    variety = min(1.0, number / VARIETY_PICTURES)
    paged = rng.random() < 1 - (1 - PAGE_SHARE) * variety
    scene: AnyScene = page_scene(rng, "train", variety) if paged else random_scene(rng, "train")
    return Example(scene, random_view(scene, rng), [])


def conversation(one: Example) -> list[dict[str, Any]]:
    """The messages of an example: the picture in front of the first question, all turns in one sequence."""
    messages: list[dict[str, Any]] = []
    for turn in one.turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    picture = {"type": "image", "image": draw_scene(one.scene, one.view)}
    messages[0]["content"] = [picture, {"type": "text", "text": "\n" + one.turns[0].question}]
    return messages


class SceneDataset(Dataset[dict[str, Any]]):
    """`pictures` training rows: first pictures to look at, then conversations, of which the first are the easiest.

    Args:
        pictures: how many.
        grid: side of the model's grid of image tokens, for the labels of its parts.

    Raises:
        ValueError: fewer than one picture.
    """

    def __init__(self, pictures: int, grid: int) -> None:
        if pictures < 1:
            raise ValueError(f"The dataset has {pictures} pictures; expected at least 1.")
        self.pictures = pictures
        self.grid = grid

    def __len__(self) -> int:
        return self.pictures

    def __getitem__(self, number: int) -> dict[str, Any]:
        asked = number - LOOKING_PICTURES
        if asked < 0:
            one = look(number)
            return {"picture": draw_scene(one.scene, one.view), "cells": label_points(one.scene, self.grid, one.view)}
        one = example("train", number, difficulty=min(1.0, asked / WARM_UP_PICTURES))
        return {"messages": conversation(one), "cells": label_points(one.scene, self.grid, one.view)}


def tokenizer_texts(examples: int = 4000) -> Iterator[str]:
    """What the tokenizer learns its merges from: questions and answers without the strings that are to be read."""
    for number in range(examples):
        yield "User:"
        yield "Assistant:"
        for turn in example("train", number).turns:
            yield READ.sub("", turn.question)
            yield READ.sub("", f" {turn.answer}")
