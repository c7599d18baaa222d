"""A loaded model behind transformers' own server."""

from typing import Any

from ..hf import serving
from .requests import RequestReader


def server_of(
    model: Any, processor: Any, name: str, address: tuple[str, int], api_key: str | None, most_pictures: int
) -> Any:
    """A server for one model.

    Args:
        model: the model.
        processor: its processor.
        name: of the model, for clients.
        address: host and port.
        api_key: that clients have to send; None for none.
        most_pictures: that one request may hold.

    Returns:
        A `uvicorn.Server`; `run()` serves until it is stopped.

    Raises:
        ImportError: what the server needs is not installed.
    """
    serving.check_installed()
    from .door import Door  # noqa: PLC0415 - needs Starlette

    draws = bool(model.generation_config.do_sample)
    # From here on a request's temperature decides; the door sends 0 where nothing is drawn.
    model.generation_config.do_sample = True
    context = model.config.get_text_config().max_position_embeddings
    reader = RequestReader(processor, context, draws, most_pictures)

    def in_front(engine: Any) -> Any:
        door = Door(engine, reader, name, serving.NAME, api_key)
        return door.app(lifespan=lambda _: engine.router.lifespan_context(engine))

    # As in `Chat`: what names places in a picture is a part of the answer.
    shown = serving.showing(processor, processor.typed_controls)
    return serving.server_of(model, shown, address, in_front)
