"""An engine's ASGI application, asked from within the same process."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

OK = 200
FAILED = 500


class EngineError(Exception):
    """What an engine answers instead of a completion.

    Args:
        message: its reason.
        status: of HTTP.
    """

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


@asynccontextmanager
async def asked(engine: App, scope: Scope, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Sends a request to an engine, and gives its answer piece by piece; leaving ends what the engine does for it.

    Args:
        engine: its application.
        scope: of the request that the client sent; path and headers are taken from it.
        body: of the request that the engine gets.

    Raises:
        EngineError: the status is not 200.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    left = asyncio.Event()
    request = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Message:
        if request:
            return request.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    task = asyncio.create_task(_run(engine, _json_scope(scope), receive, sent.put))
    task.add_done_callback(lambda _: sent.put_nowait(None))
    try:
        start = await sent.get()
        pieces = _pieces(sent)
        status = FAILED if start is None else int(start["status"])
        if status != OK:
            raise EngineError(_reason(b"".join([piece async for piece in pieces])), status)
        yield pieces
    finally:
        left.set()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _run(engine: App, scope: Scope, receive: Any, send: Any) -> None:
    try:
        await engine(scope, receive, send)
    except Exception:  # the engine has answered with 500 before it raises
        logger.exception("The engine failed.")


def _json_scope(scope: Scope) -> Scope:
    kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"content-encoding")]
    return {**scope, "headers": kept, "state": dict(scope.get("state", {}))}


async def _pieces(sent: "asyncio.Queue[Message | None]") -> AsyncIterator[bytes]:
    while (message := await sent.get()) is not None:
        if message["type"] == "http.response.body":
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return


def _reason(body: bytes) -> str:
    """The sentence in an error's body: OpenAI's shape, FastAPI's, or plain text."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except ValueError:
        return text or "The engine gave no answer."
    for key in ("error", "detail", "message"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found)


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The objects of a stream of server-sent events.

    Raises:
        EngineError: one of them is an error.
    """
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        for block in whole:
            data = block.removeprefix(b"data:").strip()
            if not data or data == b"[DONE]":
                continue
            try:
                found = json.loads(data)
            except ValueError:  # transformers' server writes messages into JSON as they are
                found = {"error": data.decode("utf-8", "replace").removeprefix('{"error": "').removesuffix('"}')}
            if "error" in found:
                raise EngineError(_reason(json.dumps(found).encode()))
            yield found
