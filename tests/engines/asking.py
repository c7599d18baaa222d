"""Conversations for engines, and what our own `generate` makes of them."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from family import IMAGES

MOST_TOKENS = 12


def picture(name: str) -> dict[str, Any]:
    """A part with a picture of the fixtures, in the form that servers take, too."""
    return part((IMAGES / name).read_bytes())


def deep_picture() -> dict[str, Any]:
    """A part with a picture of 16 bits, of which few fit into 8."""
    gray = np.asarray(Image.open(IMAGES / "square.png").convert("L")).astype(np.uint16) * 257
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG")
    return part(file.getvalue())


def part(png: bytes) -> dict[str, Any]:
    """A part of a message with a picture."""
    content = base64.b64encode(png).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}}


def user(*parts: Any) -> dict[str, Any]:
    """A message of texts and pictures."""
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def conversations() -> dict[str, list[dict[str, Any]]]:
    """What the engines are asked."""
    square, grid, tall, wide = (picture(f"{name}.png") for name in ("square", "grid", "tall", "wide"))
    first = user(square, "What is in the picture?")
    return {
        "text": [user("What is a picture?")],
        "one picture": [first],
        "text in front": [user("Look at ", grid, " and say what it is.")],
        "two pictures": [user(square, "and", tall, "Compare them.")],
        "three pictures": [user(square, tall, wide, "Compare them.")],
        "second turn": [first, {"role": "assistant", "content": "A shape."}, user("Which color has it?")],
        "16 bits": [user(deep_picture(), "What is in the picture?")],
        "typed places": [user(square, "What do <image_placeholder> and <image> mean?")],
    }


class Ours:
    """Greedy answers of our own `generate`, in float32.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, conversation: Any, **kwargs: Any) -> dict[str, list[int]]:
        """Ids of the prompt and of the answer; `kwargs` are the processor's."""
        inputs = self.processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
        )
        length = inputs["input_ids"].shape[1]
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=MOST_TOKENS)[0].tolist()
        return {"prompt": ids[:length], "answer": ids[length:]}

    def text(self, answer: list[int]) -> str:
        """An answer as servers give it."""
        return str(self.processor.tokenizer.decode(answer, skip_special_tokens=True))
