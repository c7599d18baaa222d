"""What the commands that talk to a model share: loading it, and a line that says what it is doing."""

import argparse
import math
import sys
from typing import Any

import torch
from tqdm.auto import tqdm

from ..chat import SAMPLING, Chat
from ..checkpoints.layouts.files import named_folder
from ..checkpoints.tensors.damage import naming_damage
from ..cpu.dtypes import fast_dtype
from ..cpu.packed_weights import AS_IT_WAS, packing_report, packing_seconds, prepack_weights
from ..devices import check_device
from .console import bars_on_terminals

UNITS = {"pictures": "picture", "prompt": "token"}


def load_chat(arguments: argparse.Namespace) -> Chat:
    """Loads the model that the arguments name.

    Raises:
        OSError, ValueError: see `Chat.from_pretrained`.
    """
    # The command line has options for some of them; what is not given is left to the checkpoint.
    given = {name: getattr(arguments, name, None) for name in SAMPLING}
    sampling = {name: value for name, value in given.items() if value is not None}
    if arguments.fast and (arguments.device or "cpu") != "cpu":
        raise ValueError(f"Found --fast with --device {arguments.device}; it is for a CPU. Leave one of them out.")
    if arguments.device is not None:
        check_device(arguments.device)
    bars_on_terminals()
    folder = named_folder(arguments.model)
    with naming_damage(folder):
        chat = Chat.from_pretrained(
            folder,
            dtype=arguments.dtype or ("auto" if _keeps_16_bits(arguments) else None),
            device="cpu" if arguments.fast else arguments.device,
            int4=arguments.int4,
            system=getattr(arguments, "system", None),
            progress=ProgressLine(),
            **sampling,
        )
    if arguments.fast:
        pack(chat)
    return chat


def _keeps_16_bits(arguments: argparse.Namespace) -> bool:
    """Whether weights that are packed are best loaded as they are stored: packed, they are computed in float32."""
    return arguments.fast and not arguments.int4 and fast_dtype("cpu") == torch.float32


def pack(chat: Chat) -> None:
    """Packs a chat's weights, and says before how long that takes."""
    weights, seconds = chat.model.num_parameters(), packing_seconds(chat.model)
    print(f"Packing {weights / 1e6:,.1f} million weights; about {math.ceil(seconds)} s.", file=sys.stderr)
    with tqdm(desc="packing", total=weights, unit="weight", unit_scale=True, leave=False, disable=None) as bar:
        prepack_weights(chat.model, lambda done, total: bar.update(done - bar.n))
    slower = [layer for layer in packing_report(chat.model) if layer.reason and layer.way != AS_IT_WAS]
    if slower:
        example = f"{slower[0].name}: {slower[0].reason}"
        print(f"{len(slower)} layers are packed in another way, such as {example}.", file=sys.stderr)


class ProgressLine:
    """Shows on a terminal's error stream what is done before an answer begins, and goes when it does."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """As `Chat` calls it."""
        if what != self._what:
            self.close()
            self._what = what
            self._bar = tqdm(desc=f"reading {what}", total=total, unit=UNITS[what], leave=False, disable=None)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Takes the line away."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, ""


def end_progress(chat: Chat) -> None:
    """Takes the line of a chat that `load_chat` made away."""
    if isinstance(chat.progress, ProgressLine):
        chat.progress.close()
