"""`deepseek-vl demo`: a web page to talk with a model."""

import argparse

from ..chat import Chat
from ..chat.page_examples import examples_for
from .address import check_address
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
        raise ImportError("The page needs Gradio: pip install 'gradio>=6'") from error
    check_address(arguments.host, arguments.port)
    print(f"Loading {arguments.model} ...", flush=True)
    first = load_chat(arguments)

    def make() -> Chat:
        return Chat(first.model, first.processor, system=first.system, **first.sampling)

    examples = examples_for(arguments.model, first.processor.suggested_prompts)
    page = build_page(make, f"DeepSeek-VL: {arguments.model}", examples)
    # Quietly: what Gradio says itself ends with advice to open the page to the world.
    _, address, _ = launch(
        page, server_name=arguments.host, server_port=arguments.port, quiet=True, prevent_thread_lock=True
    )
    print(f"The page is at {address.rstrip('/')}. Ctrl-C ends it.", flush=True)
    page.block_thread()
    return 0
