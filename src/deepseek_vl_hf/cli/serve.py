"""`deepseek-vl serve`: a server for OpenAI clients."""

import argparse
import os
import sys

from ..hf.serving import check_installed
from ..serving import transformers_server, vllm_server
from ..serving.engines import VLLM, choose
from .address import check_address
from .models import load_chat


def run(arguments: argparse.Namespace) -> int:
    """Runs the command until it is stopped; returns the exit status.

    Raises:
        ImportError: the engine is not installed.
        OSError, ValueError: the model cannot be read or served, or the port is taken.
    """
    key = arguments.api_key or os.environ.get("DEEPSEEK_VL_API_KEY") or None
    name = arguments.name or arguments.model
    check_address(arguments.host, arguments.port)
    engine, reason = choose(arguments)
    print(f"Engine: {engine}. {reason}", flush=True)
    address = arguments.host, arguments.port
    if engine == VLLM:
        # Where vLLM writes what it does.
        return vllm_server.run(arguments, name, address, key, lambda line: print(line, file=sys.stderr))
    check_installed()
    chat = load_chat(arguments)
    print(f"{name} is served at http://{arguments.host}:{arguments.port}/v1", flush=True)
    transformers_server.server_of(chat.model, chat.processor, name, address, key, arguments.max_images).run()
    return 0
