"""What the groups work on: the fixtures' small checkpoints in both layouts, copies to damage, and their answers."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin

from deepseek_vl_hf.checkpoints import convert_checkpoint
from family import FIXTURES, IMAGES

FAMILIES = ("vl", "vl_hybrid", "vl2_mha", "vl2_mla")
LAYOUTS = ("original", "transformers")
SHARD_SIZE = "500KB"  # several files, as the published sizes have
CONVERSATION = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is in "},
            {"type": "image", "path": str(IMAGES / "tiny.png")},
            {"type": "text", "text": "?"},
        ],
    }
]


@dataclass(frozen=True)
class Answer:
    """What a checkpoint makes of CONVERSATION: model inputs, and logits [1, vocabulary] of the first token."""

    inputs: dict[str, torch.Tensor]
    logits: torch.Tensor

    def same(self, other: "Answer") -> bool:
        if self.inputs.keys() != other.inputs.keys():
            return False
        if not all(torch.equal(values, other.inputs[name]) for name, values in self.inputs.items()):
            return False
        return same_logits(self.logits, other.logits)


def are_numbers(logits: torch.Tensor) -> bool:
    """Whether no logit is NaN or endless; -inf is a token that cannot come."""
    return not bool((logits.isnan() | (logits == torch.inf)).any())


def same_logits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@cache
def temporary() -> Path:
    """A folder of this process, removed at its end."""
    holder = tempfile.TemporaryDirectory(prefix="fuzz-")
    _HOLDERS.append(holder)
    return Path(holder.name)


_HOLDERS: list[Any] = []


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one case."""
    folder = Path(tempfile.mkdtemp(dir=temporary()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def copy_of(source: Path) -> Iterator[Path]:
    """A copy of a checkpoint that a case may damage."""
    with scratch() as folder:
        yield Path(shutil.copytree(source, folder / "checkpoint"))


def load(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def inputs_of(folder: Path) -> dict[str, torch.Tensor]:
    processor = AutoProcessor.from_pretrained(folder)
    if not isinstance(processor, ProcessorMixin):
        # What transformers does where a file names a processor class that does not exist.
        raise TypeError(f"AutoProcessor gave a {type(processor).__name__}")
    encoded = processor.apply_chat_template(
        CONVERSATION, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return dict(encoded)


def generate(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits [1, vocabulary] of the first of two generated tokens."""
    found = model.generate(
        **inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    return found.logits[0].float()


def answer(folder: Path) -> Answer:
    inputs = inputs_of(folder)
    return Answer(inputs, generate(load(folder), inputs))


def other(layout: str) -> str:
    return LAYOUTS[1 - LAYOUTS.index(layout)]


class Checkpoint:
    """One family's fixture in one layout, undamaged, with what it gives."""

    def __init__(self, family: str, layout: str) -> None:
        self.family, self.layout = family, layout

    @cached_property
    def folder(self) -> Path:
        original = FIXTURES / self.family / "checkpoint"
        if self.layout == "original":
            return original
        destination = temporary() / self.family
        convert_checkpoint(original, destination, max_shard_size=SHARD_SIZE)
        return destination

    @cached_property
    def model(self) -> Any:
        return load(self.folder)

    @cached_property
    def state(self) -> dict[str, torch.Tensor]:
        return dict(self.model.state_dict())

    @cached_property
    def answer(self) -> Answer:
        inputs = inputs_of(self.folder)
        return Answer(inputs, generate(self.model, inputs))

    @cached_property
    def processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.folder)


@cache
def checkpoint(family: str, layout: str) -> Checkpoint:
    return Checkpoint(family, layout)
