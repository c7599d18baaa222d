"""What the commands that talk to a model share: its arguments, loading it, and a line that says what it is doing."""

import argparse
import sys
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging

from ..chat import SAMPLING, Chat
from ..nano.folder import NANO

DTYPES = ("bfloat16", "float32", "float16")
UNITS = {"pictures": "picture", "prompt": "token"}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, in what form, and how it answers."""
    parser.add_argument("--int4", action="store_true", help="give the language model 4-bit weights")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="type of the weights (default: %(default)s)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    parser.add_argument("--system", metavar="TEXT", help='system prompt; "" for none (default: the model\'s own)')
    for name in ("max_new_tokens", "temperature", "top_p", "repetition_penalty"):
        value: Any = SAMPLING[name]
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(value),
            metavar="N",
            help=f"(default: {value})" + ("; 0 takes the most likely token" if name == "temperature" else ""),
        )


def load_chat(arguments: argparse.Namespace, model: str = NANO) -> Chat:
    """Loads the model that the arguments name.

    Raises:
        OSError, ValueError: see `Chat.from_pretrained`; or an argument is out of range.
    """
    names = ("max_new_tokens", "temperature", "top_p", "repetition_penalty")
    sampling = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if sampling.get("max_new_tokens", 1) < 1 or sampling.get("temperature", 0) < 0:
        raise ValueError("Expected --max-new-tokens of at least 1 and a --temperature of at least 0.")
    if sampling.get("temperature") == 0:
        sampling = {**sampling, "do_sample": False}
        del sampling["temperature"]
    if sys.stderr.isatty():
        logging.enable_progress_bar()  # transformers shows how many weights are loaded
    return Chat.from_pretrained(
        model,
        dtype=arguments.dtype,
        device=arguments.device,
        int4=arguments.int4,
        system=arguments.system,
        progress=ProgressLine(),
        **sampling,
    )


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
