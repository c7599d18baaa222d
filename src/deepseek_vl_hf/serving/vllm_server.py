"""vLLM's own server as a process of its own, which the package's plugin teaches our models."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..checkpoints.conversion.convert import convert_checkpoint
from ..checkpoints.layouts.files import CONFIG, in_folder, named_folder, read_json, require
from ..cpu.dtypes import fast_dtype
from ..nano.folder import packaged
from .vllm_checkpoints import refusal

# What asks a program to stop; it is passed on to vLLM, which then ends its own processes.
# Windows has no SIGHUP.
PASSED_ON = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
Report = Callable[[str], object]


def can_serve(folder: str | Path) -> str | None:
    """Why vLLM cannot take a checkpoint, as a sentence that says what to do; None if it can.

    Args:
        folder: of the checkpoint.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is damaged.
    """
    if packaged(Path(folder)):
        return None  # it is converted first
    config = read_json(require(in_folder(Path(folder)), CONFIG))
    return refusal(config, str(folder), on_cpu=not torch.cuda.is_available())


def run(arguments: argparse.Namespace, name: str, address: tuple[str, int], key: str | None, report: Report) -> int:
    """Runs vLLM's server until it ends or is stopped; returns its exit status, or 128 + the signal that ended it.

    Args:
        arguments: of the command: `model`, `dtype`, `max_images` and `engine_arguments`.
        name: of the model, for clients.
        address: host and port.
        key: that clients have to send; None for none.
        report: receives a line about what is done first.

    Raises:
        OSError, ValueError: the checkpoint cannot be read or served.
    """
    folder = named_folder(arguments.model)
    reason = can_serve(folder)
    if reason:
        raise ValueError(reason)
    with _converted(folder, report) as servable:
        # A key among the arguments would stand in the list of processes.
        return run_process(command(arguments, servable, name, address), {"VLLM_API_KEY": key} if key else {})


def command(arguments: argparse.Namespace, folder: Path, name: str, address: tuple[str, int]) -> list[str]:
    """The command line of vLLM's server; what stands last in it wins, and those are the user's own arguments.

    Args:
        arguments: see `run`.
        folder: of the converted checkpoint.
        name: of the model, for clients.
        address: host and port.
    """
    host, port = address
    dtype = arguments.dtype
    if dtype is None and not torch.cuda.is_available():
        dtype = str(fast_dtype("cpu")).removeprefix("torch.")
    return [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(folder)),
        *("--model-impl", "transformers", "--host", host, "--port", str(port), "--served-model-name", name),
        *("--limit-mm-per-prompt", json.dumps({"image": arguments.max_images})),
        *(("--dtype", dtype) if dtype else ()),
        *arguments.engine_arguments,
    ]


@contextmanager
def _converted(folder: Path, report: Report) -> Iterator[Path]:
    """A folder in the transformers layout: the same, but for the packaged model, which comes as an original."""
    name = packaged(folder)
    if name is None:
        yield folder
        return
    with TemporaryDirectory(prefix="deepseek-vl-nano-") as temporary:
        report(f"The packaged model is in the original layout; converting it in {temporary} for vLLM.")
        converted = Path(temporary) / name
        convert_checkpoint(folder, converted)
        yield converted


def run_process(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs a program to its end and passes on the signals that ask to stop.

    Args:
        words: the command line.
        environment: variables beside those of this process.

    Returns:
        Its exit status, or 128 + the signal that ended it.
    """
    # In a session of its own, so that a Ctrl-C in the terminal does not reach it twice.
    process = subprocess.Popen(words, env={**os.environ, **environment}, start_new_session=True)
    before = {number: signal.signal(number, lambda given, _: process.send_signal(given)) for number in PASSED_ON}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
