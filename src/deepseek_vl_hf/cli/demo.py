"""`deepseek-vl demo`: a web page to talk with a model."""

import argparse
import socket

from ..chat import Chat
from .models import load_chat


def run(arguments: argparse.Namespace) -> int:
    """Runs the command until it is stopped; returns the exit status.

    Raises:
        ImportError: Gradio is not installed.
        OSError, ValueError: the model cannot be read, or the port is taken.
    """
    try:
        from ..chat.page import build_page, launch  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("The page needs Gradio: pip install 'deepseek-vl-hf[demo]'") from error
    _check_address(arguments.host, arguments.port)
    first = load_chat(arguments)

    def make() -> Chat:
        return Chat(first.model, first.processor, system=first.system, **first.sampling)

    page = build_page(make, f"DeepSeek-VL: {arguments.model}")
    launch(page, server_name=arguments.host, server_port=arguments.port)
    return 0


def _check_address(host: str, port: int) -> None:
    """Raises OSError if the page could not be served there, which Gradio would say when the model is loaded."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise OSError(
            f"The page cannot be served at {host}, port {port}: {error.strerror}. Name another --port or --host."
        ) from error
