"""The door of a server: OpenAI's protocol towards clients, in front of an engine's own application.

What an engine leaves out or ignores is done here: several answers (`n`), texts that end an answer (`stop`), a name for
the model, keys, and errors in OpenAI's shape. Only what is checked comes through; whatever else an engine offers, such
as loading other models, does not.
"""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .engine_app import FAILED, App, EngineError, asked, events
from .requests import ChatRequest, RequestError, RequestReader
from .stops import StreamCutter, cut

# A request's body: pictures take a third more as text than as files.
MOST_BYTES = 2**28
# So many requests can wait for pictures behind slow links before others have to wait for them.
READERS = 32
CHAT = "/v1/chat/completions"


class Door:
    """The application that a server runs.

    Args:
        engine: the engine's application, which answers CHAT and `/health`.
        reader: checks requests.
        name: of the model, for clients.
        name_in_engine: the same for the engine.
        api_key: that clients have to send; None for none.
    """

    def __init__(
        self, engine: App, reader: RequestReader, name: str, name_in_engine: str, api_key: str | None = None
    ) -> None:
        self._engine, self._reader = engine, reader
        self._name, self._name_in_engine = name, name_in_engine
        self._api_key = api_key
        self._created = int(time.time())
        self._readers = ThreadPoolExecutor(READERS, "request")

    def app(self, lifespan: Any = None) -> Starlette:
        """As ASGI servers take it."""
        routes = [
            Route(CHAT, self.chat, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/health", self.health),
        ]
        handlers: dict[Any, Any] = {
            RequestError: lambda request, error: failure(str(error), error.status),
            EngineError: lambda request, error: failure(str(error), error.status),
            HTTPException: lambda request, error: failure(_http_message(request, error), error.status_code),
            Exception: lambda request, error: failure("The server failed; its log says how.", FAILED),
            ClientDisconnect: lambda request, error: Response(status_code=400),
        }
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)

    async def health(self, request: Request) -> Response:
        """Whether the server can answer; asked without a key."""
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """The one model."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """A model by its name."""
        self._check_key(request)
        self._check_name(request.path_params["name"])
        return JSONResponse(self._model())

    async def chat(self, request: Request) -> Response:
        """A completion, or several; whole or as a stream."""
        self._check_key(request)
        body = await _body(request)
        if isinstance(body, dict):
            self._check_name(body.get("model"))
        wanted = await asyncio.get_running_loop().run_in_executor(self._readers, self._reader.read, body)
        wanted.body["model"] = self._name_in_engine
        if not wanted.stream:
            return JSONResponse(await self._whole(request, wanted))
        chunks = self._chunks(request, wanted)
        return StreamingResponse(_as_events(await _first_words(chunks), chunks), media_type="text/event-stream")

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self._api_key is not None and not hmac.compare_digest(given.encode(), self._api_key.encode()):
            raise RequestError("The API key is missing or wrong. Send it as Authorization: Bearer KEY.", 401)

    def _check_name(self, name: Any) -> None:
        if name not in (None, self._name):
            raise RequestError(f"There is no model {name!r} here; expected {self._name!r}, or no name.", 404)

    def _model(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": self._created, "owned_by": "deepseek_vl_hf"}

    async def _whole(self, request: Request, wanted: ChatRequest) -> dict[str, Any]:
        answers = [await self._answer(request, body, wanted.stops) for body in _one_for_each(wanted)]
        choices = [{**answer["choices"][0], "index": number} for number, answer in enumerate(answers)]
        usages = [answer["usage"] for answer in answers]
        completion = sum(usage["completion_tokens"] for usage in usages)
        usage = _usage(usages[0]["prompt_tokens"], completion)
        return {**answers[0], "model": self._name, "choices": choices, "usage": usage}

    async def _answer(self, request: Request, body: dict[str, Any], stops: tuple[str, ...]) -> dict[str, Any]:
        async with asked(self._engine, request.scope, body) as pieces:
            answer: dict[str, Any] = json.loads(b"".join([piece async for piece in pieces]))
        choice = answer["choices"][0]
        text, found = cut(choice["message"].get("content") or "", stops)
        choice["message"]["content"] = text.lstrip()
        if found:
            choice["finish_reason"] = "stop"
        return answer

    async def _chunks(self, request: Request, wanted: ChatRequest) -> AsyncIterator[dict[str, Any]]:
        """All chunks of a stream, one answer after the other, because the engine writes one at a time."""
        common: dict[str, Any] = {}
        prompt = completion = 0
        for number, body in enumerate(_one_for_each(wanted)):
            cutter = StreamCutter(wanted.stops)
            async with asked(self._engine, request.scope, {**body, "stream": True}) as pieces:
                async for event in events(pieces):
                    usage = event.pop("usage", None) or {}
                    prompt = usage.get("prompt_tokens", prompt)
                    completion += usage.get("completion_tokens", 0)
                    common = common or {**event, "model": self._name}
                    choices = [_cut_choice(choice, number, cutter) for choice in event["choices"]]
                    yield {**common, "choices": choices}
        if wanted.include_usage:
            yield {**common, "choices": [], "usage": _usage(prompt, completion)}


async def _body(request: Request) -> Any:
    """The JSON of a request.

    Raises:
        RequestError: it is none, or too large.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_BYTES:
            raise RequestError(f"The request is larger than {MOST_BYTES >> 20} MB. Send smaller pictures.", 413)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The request is not JSON: {error}.") from error


def _one_for_each(wanted: ChatRequest) -> list[dict[str, Any]]:
    """A request for each of the answers; a seed is counted on, or all of them would be alike."""
    seed = wanted.body.get("seed")
    return [wanted.body if seed is None else {**wanted.body, "seed": seed + number} for number in range(wanted.choices)]


def _cut_choice(choice: dict[str, Any], number: int, cutter: StreamCutter) -> dict[str, Any]:
    """A piece of an answer without what stands at and after a text that ends it."""
    delta = dict(choice.get("delta") or {})
    text = cutter.feed(delta.get("content") or "")
    reason = choice.get("finish_reason")
    if reason is not None:
        text += cutter.end()
        reason = "stop" if cutter.found else reason
    if text or "content" in delta:
        delta["content"] = text
    return {**choice, "index": number, "delta": delta, "finish_reason": reason}


def _says_something(chunk: dict[str, Any]) -> bool:
    return any(choice["delta"].get("content") or choice["finish_reason"] for choice in chunk["choices"])


async def _first_words(chunks: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chunks up to the first that says something: until then an error can still have a status of its own."""
    first = []
    async for chunk in chunks:
        first.append(chunk)
        if _says_something(chunk):
            break
    return first


async def _as_events(first: list[dict[str, Any]], chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """A stream as clients read it."""
    for chunk in first:
        yield _event(chunk)
    try:
        async for chunk in chunks:
            yield _event(chunk)
    except EngineError as error:
        yield _event(error_body(str(error), error.status))
    finally:
        await chunks.aclose()  # type: ignore[attr-defined]
    yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def error_body(message: str, status: int) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = "server_error" if status >= FAILED else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def failure(message: str, status: int) -> JSONResponse:
    """The answer that carries it."""
    return JSONResponse(error_body(message, status), status_code=status)


def _http_message(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"Nothing is served at {request.url.path}; expected {CHAT}, /v1/models or /health."
    return f"{request.method} {request.url.path}: {error.detail}."
