"""A conversation as a notebook shows it: turns with small pictures. What people and models wrote is never markup."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from .history import Turn

# Bounds of what one cell of a notebook takes, which is stored with the notebook: about 10 kB for each picture.
MOST_TURNS = 20
MOST_PICTURES = 24
MOST_CHARACTERS = 4000
LONGER_EDGE = 160  # pixels
# Notebooks set what stands between dollar signs as formulas, except in elements of these classes.
NO_FORMULAS = "tex2jax_ignore mathjax_ignore"
# Without colors of its own, so that it suits light and dark notebooks.
WHO, SAID = "opacity: 0.65; font-size: 85%", "white-space: pre-wrap; margin: 2px 0 8px"
PICTURE = "max-width: 160px; max-height: 160px; margin: 2px 8px 2px 0; vertical-align: top"


def summary_of(model: Any, turns: Sequence[Turn]) -> str:
    """One line: the model, its type of numbers, its device, and the number of turns."""
    number = f"{len(turns)} turn{'' if len(turns) == 1 else 's'}"
    return f"{type(model).__name__}, {str(model.dtype).removeprefix('torch.')} on {model.device}, {number}"


def html_of(summary: str, turns: Sequence[Turn]) -> str:
    """A conversation as HTML that stands by itself, at most the last turns and pictures of it.

    Args:
        summary: the line above it.
        turns: the conversation.
    """
    shown = turns[-MOST_TURNS:]
    parts = [f'<div style="{WHO}">{html.escape(summary)}</div>']
    if len(shown) < len(turns):
        parts.append(f'<div style="{WHO}">the first {len(turns) - len(shown)} turns are not shown</div>')
    room = MOST_PICTURES
    for turn in shown:
        parts.append(_message("You", _question(turn, room)))
        room = max(room - len(turn.pictures), 0)
        parts.append(_message("Model", _text(turn.answer or "")))
    return f'<div class="{NO_FORMULAS}" style="max-width: 50em">{"".join(parts)}</div>'


def _message(who: str, content: str) -> str:
    return f'<div style="{WHO}">{who}</div><div style="{SAID}">{content}</div>'


def _question(turn: Turn, room: int) -> str:
    """Texts and pictures in their order; pictures beyond the room are named by their size."""
    parts = [_text(turn.texts[0])]
    for number, (picture, text) in enumerate(zip(turn.pictures, turn.texts[1:], strict=True)):
        size = f"{picture.width} x {picture.height} pixels"
        parts.append(_picture(picture, size) if number < room else f"[picture, {size}]")
        parts.append(_text(text))
    return "".join(parts)


def _text(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}... ({len(text) - MOST_CHARACTERS} more characters)"
    return html.escape(text)


def _picture(picture: Image.Image, size: str) -> str:
    small = picture.copy()
    small.thumbnail((LONGER_EDGE, LONGER_EDGE))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<img alt="{size}" title="{size}" style="{PICTURE}" src="data:image/jpeg;base64,{encoded}">'
