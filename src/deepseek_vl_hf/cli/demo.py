"""`deepseek-vl demo`: a web page to talk with a model."""

import argparse

from ..chat import Chat
from .models import load_chat


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
    first = load_chat(arguments)

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
