"""From an answer with layout marks to blocks, Markdown and figures. Pure functions.

answer --find marks--> blocks (label, boxes in pixels, the text up to the next mark) --> Markdown, boxes of figures

A mark is `<|ref|>LABEL<|/ref|><|det|>BOXES<|/det|>`, and BOXES a list of [left, top, right, bottom]. Whatever of that
is broken is repaired or left out, and a note says so.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..models.grounding import LARGEST_COORDINATE, Box

FIGURE = "image"  # the label of what is cut out
END = "<｜end▁of▁sentence｜>"
# What the authors' programs make of formulas that Markdown renderers stumble over.
REWRITTEN = {r"\coloneqq": ":=", r"\eqqcolon": "=:"}

_INSIDE = r"(?:(?!<\|/?(?:ref|det)\|>).)*"
# An answer that was cut off may end in the middle of its last mark.
_MARK = re.compile(
    rf"<\|ref\|>(?P<label>{_INSIDE})<\|/ref\|>\s*(?:<\|det\|>(?P<boxes>{_INSIDE})(?P<end><\|/det\|>|\Z)|\Z)", re.DOTALL
)
_STRAY = re.compile(r"<\|/?(?:ref|det)\|>")
_LIST = re.compile(r"\[([^\[\]]*)\]")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?", re.ASCII)
LONGEST_QUOTE = 60


@dataclass(frozen=True)
class Block:
    """A part of a page.

    Attributes:
        label: what the model calls it: "title", "text", "table", "image" ...; for the prompt "OCR this image." the text
            itself. "" for text without a mark.
        text: what follows the mark, stripped.
        boxes: (left, top, right, bottom) in pixels.
        figures: for each box of a figure the name of its picture's file; empty for other blocks.
    """

    label: str
    text: str
    boxes: tuple[Box, ...] = ()
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What an answer says of a page.

    Attributes:
        blocks: in the order of the answer.
        markdown: the text, with a reference wherever a figure stands.
        figures: for each file that Markdown refers to, which part of the page it is, in pixels.
        notes: what was broken, and what was done about it.
    """

    blocks: tuple[Block, ...]
    markdown: str
    figures: dict[str, Box]
    notes: tuple[str, ...]


def numbered_figure(number: int) -> str:
    """The original's name for a figure's file."""
    return f"images/{number}.jpg"


def read_layout(answer: str, size: tuple[int, int], name_figure: Callable[[int], str] = numbered_figure) -> Layout:
    r"""Reads an answer.

    The Markdown is the original's `result.mmd`, but for what is broken in it: the original numbers the references by
    figures and the files by boxes, so that the two drift apart after a figure with several boxes. Here every box has
    its reference, and the number is the box's. A box that occurs again refers to the first one's file; its own number
    is left out. As in the original, `\coloneqq` and `\eqqcolon` become := and =: where an answer has marks other than
    those of figures.

    An answer that consists of marks alone, as the prompt "OCR this image." gives, holds its text in the labels; the
    original's Markdown would be empty, here it is the labels, one per line.

    Args:
        answer: decoded with the marks; a trailing end token does not count.
        size: (width, height) of the picture in pixels, upright.
        name_figure: a file's name, with forward slashes, for the number of a figure's box, from 0.

    Raises:
        ValueError: a side of the picture is no pixel long.
    """
    if min(size) < 1:
        raise ValueError(f"Found a picture of {size[0]} x {size[1]} pixels; expected at least 1 x 1.")
    answer = answer.strip().removesuffix(END).strip()
    notes: list[str] = []
    files: dict[Box, str] = {}
    blocks, pieces, count = [], [], 0
    for label, text, boxes in _marked(answer, size, notes):
        figures: list[str] = []
        for box in boxes if label == FIGURE else ():
            figures.append(files.setdefault(box, name_figure(count)))
            count += 1
        if label == FIGURE and not figures:
            notes.append("A figure has no usable box and is left out.")
        blocks.append(Block(label or "", text.strip(), boxes, tuple(figures)))
        pieces.append("".join(f"![]({figure})\n" for figure in figures) + text)
    markdown = _rewritten("".join(pieces), blocks).strip()
    if not markdown:
        markdown = "\n".join(block.label for block in blocks if block.label and block.label != FIGURE)
    kept = [block for block in blocks if block.label or block.text]
    return Layout(tuple(kept), markdown, {name: box for box, name in files.items()}, tuple(notes))


def _marked(answer: str, size: tuple[int, int], notes: list[str]) -> Iterator[tuple[str | None, str, tuple[Box, ...]]]:
    """Label, text and boxes of each part; the label of what stands before the first mark is None."""
    matches = [*_MARK.finditer(answer)]
    ends = [*(match.start() for match in matches), len(answer)]
    yield None, _without_strays(answer[: ends[0]], notes), ()
    for match, end in zip(matches, ends[1:], strict=True):
        label = match["label"].strip()
        if not match["end"]:
            notes.append(f"{_of(label)}: the mark is cut off at the end of the answer.")
        boxes = tuple(_boxes(match["boxes"] or "", label, size, notes))
        yield label, _without_strays(answer[match.end() : end], notes), boxes


def _without_strays(text: str, notes: list[str]) -> str:
    without, count = _STRAY.subn("", text)
    if count:
        notes.append(f"{count} {'pieces' if count > 1 else 'piece'} of broken marks removed near {_quoted(without)}.")
    return without


def _boxes(text: str, label: str, size: tuple[int, int], notes: list[str]) -> Iterator[Box]:
    """Those of a mark that can be used."""
    lists = _LIST.findall(text)
    if not lists:
        notes.append(f"{_of(label)}: no box in {_quoted(text)}; expected [[left, top, right, bottom]].")
    for found in lists:
        words = [word.strip() for word in found.split(",")]
        if len(words) != 4 or not all(_NUMBER.fullmatch(word) for word in words):
            notes.append(f"{_of(label)}: [{_quoted(found, '')}] is not four numbers and is left out.")
            continue
        values = _in_order(_in_range([float(word) for word in words], label, found, notes), label, found, notes)
        box = _to_pixels(values, size)
        if box[0] < box[2] and box[1] < box[3]:
            yield box
        else:
            notes.append(f"{_of(label)}: [{found}] covers no pixel and is left out.")


def _in_range(values: Sequence[float], label: str, found: str, notes: list[str]) -> list[float]:
    clipped = [min(max(value, 0.0), float(LARGEST_COORDINATE)) for value in values]
    if clipped != list(values):
        notes.append(f"{_of(label)}: [{_quoted(found, '')}] reaches beyond 0 to {LARGEST_COORDINATE} and is clipped.")
    return clipped


def _in_order(values: list[float], label: str, found: str, notes: list[str]) -> list[float]:
    left, top, right, bottom = values
    ordered = [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
    if ordered != values:
        notes.append(f"{_of(label)}: [{found}] has its edges reversed; they are swapped.")
    return ordered


def _to_pixels(values: Sequence[float], size: tuple[int, int]) -> Box:
    left, top, right, bottom = (
        int(value / LARGEST_COORDINATE * side) for value, side in zip(values, (*size, *size), strict=True)
    )
    return left, top, right, bottom


def _rewritten(text: str, blocks: Sequence[Block]) -> str:
    if any(block.label != FIGURE for block in blocks[1:]):  # the first is what stands before all marks
        for command, plain in REWRITTEN.items():
            text = text.replace(command, plain)
    return text


def _of(label: str) -> str:
    return _quoted(label) if label else "A mark without a label"


def _quoted(text: str, quote: str = "'") -> str:
    line = " ".join(text.split())
    return f"{quote}{line if len(line) <= LONGEST_QUOTE else f'{line[:LONGEST_QUOTE]}...'}{quote}"
