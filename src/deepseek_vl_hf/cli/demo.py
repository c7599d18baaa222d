"""`deepseek-vl demo`: a web page to talk with a model."""

import argparse

from ..chat import Chat
from ..nano.folder import NANO
from .models import add_model_arguments, load_chat

SUMMARY = "open a web page to talk with a model"
DESCRIPTION = """A web page with pictures, answers as they are made, and several turns. It needs Gradio:
pip install 'deepseek-vl-hf[demo]'

The default model, nano, knows drawn scenes alone: shapes, strings, bar charts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes the command line."""
    parser.add_argument("model", metavar="MODEL", nargs="?", default=NANO, help="(default: %(default)s)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine alone;\n0.0.0.0 is open to the network)",
    )
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command until it is stopped; returns the exit status.

    Raises:
        ImportError: Gradio is not installed.
        OSError, ValueError: the model cannot be read, or the port is taken.
    """
    try:
        from ..chat.page import LARGEST_UPLOAD, build_page, theme  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("The page needs Gradio: pip install 'deepseek-vl-hf[demo]'") from error
    first = load_chat(arguments, arguments.model)

    def make() -> Chat:
        return Chat(first.model, first.processor, system=first.system, **first.sampling)

    page = build_page(make, f"DeepSeek-VL: {arguments.model}")
    page.queue(default_concurrency_limit=1)
    page.launch(
        server_name=arguments.host,
        server_port=arguments.port,
        share=False,
        theme=theme(),
        max_file_size=LARGEST_UPLOAD,
        footer_links=[],
        ssr_mode=False,
    )
    return 0
