"""The door of a server in front of an engine that only writes words."""

import asyncio
import json

import pytest

pytest.importorskip("starlette", reason="needs what a server needs: pip install 'transformers[serving]'")

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from deepseek_vl_hf.serving.door import CHAT, Door
from deepseek_vl_hf.serving.requests import RequestReader

WORDS = [" one", " two", " three"]


class Engine:
    """Answers as transformers' server does."""

    def __init__(self):
        self.asked, self.left, self.fails, self.fails_at = [], 0, None, None
        self.app = Starlette(routes=[Route(CHAT, self.chat, methods=["POST"])])

    async def chat(self, request):
        body = await request.json()
        self.asked.append(body)
        if self.fails:
            return JSONResponse({"detail": self.fails}, status_code=422)
        if not body.get("stream"):
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(WORDS)},
                "finish_reason": "length",
            }
            usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
            return JSONResponse({"id": "a", "model": body["model"], "choices": [choice], "usage": usage})
        return StreamingResponse(self.words(body["model"]), media_type="text/event-stream")

    async def words(self, model):
        def event(delta, reason=None, **rest):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return f"data: {json.dumps({'id': 'a', 'model': model, 'choices': [choice], **rest})}\n\n"

        try:
            yield event({"role": "assistant"})
            for number, word in enumerate(WORDS):
                if number == self.fails_at:
                    yield 'data: {"error": "it "broke""}\n\n'  # as it is written there, which is no JSON
                    return
                yield event({"content": word})
                await asyncio.sleep(0.01)
            yield event({}, "length", usage={"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8})
        except asyncio.CancelledError:
            self.left += 1
            raise


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def door(engine, processor):
    return Door(engine.app, RequestReader(processor, 2048), "small", "inside").app()


def call(app, path=CHAT, body=None, headers=(), until=None):
    """(status, body) of a request; with `until`, the client leaves once that was sent."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    sent, left = [], asyncio.Event()
    requests = [{"type": "http.request", "body": data, "more_body": False}]

    async def receive():
        if requests:
            return requests.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if until is not None and until in message.get("body", b""):
            left.set()

    scope = {
        **{"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"},
        **{"method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""},
        **{"scheme": "http", "server": ("test", 80), "client": ("test", 1)},
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def chunks(data):
    blocks = data.decode().removesuffix("data: [DONE]\n\n").split("\n\n")
    return [json.loads(block.removeprefix("data: ")) for block in blocks if block]


def words(found, number=0):
    choices = [choice for chunk in found for choice in chunk.get("choices", []) if choice["index"] == number]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


MESSAGES = [{"role": "user", "content": "Count."}]


def test_a_whole_answer(door, engine):
    status, data = call(door, body={"messages": MESSAGES, "model": "small"})
    answer = json.loads(data)
    assert (status, answer["model"]) == (200, "small")
    assert answer["choices"][0]["message"]["content"] == "one two three"
    assert engine.asked[0]["model"] == "inside"


def test_several_answers(door, engine):
    _, data = call(door, body={"messages": MESSAGES, "n": 3, "seed": 7})
    answer = json.loads(data)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
    assert [body["seed"] for body in engine.asked] == [7, 8, 9]


def test_a_stream_of_several_answers(door):
    status, data = call(
        door, body={"messages": MESSAGES, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    )
    found = chunks(data)
    assert status == 200
    assert data.endswith(b"data: [DONE]\n\n")
    assert [words(found, number) for number in (0, 1)] == ["one two three"] * 2
    assert {chunk["model"] for chunk in found} == {"small"}
    assert found[-1]["choices"] == []
    assert found[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert all("usage" not in chunk for chunk in found[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_cut_where_it_ends(door, stream):
    _, data = call(door, body={"messages": MESSAGES, "stop": ["o th"], "stream": stream})
    if stream:
        found = chunks(data)
        assert words(found) == "one tw"
        assert found[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        choice = json.loads(data)["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("one tw", "stop")


def error_of(data):
    return json.loads(data)["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_engines_refusal_reaches_the_client(door, engine, stream):
    engine.fails = "no such thing"
    status, data = call(door, body={"messages": MESSAGES, "stream": stream})
    assert (status, error_of(data)) == (422, "no such thing")


def test_a_stream_that_fails_before_its_first_word_is_an_error(door, engine):
    engine.fails_at = 0
    status, data = call(door, body={"messages": MESSAGES, "stream": True})
    assert (status, error_of(data)) == (500, 'it "broke"')


def test_a_stream_that_fails_later_ends_with_the_error(door, engine):
    engine.fails_at = 2
    status, data = call(door, body={"messages": MESSAGES, "stream": True})
    found = chunks(data)
    assert (status, words(found)) == (200, "one two")
    assert found[-1]["error"]["message"] == 'it "broke"'


def test_the_engine_learns_that_a_client_left(door, engine):
    call(door, body={"messages": MESSAGES, "stream": True}, until=b"one")
    assert engine.left == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (CHAT, b"{", 400, "The request is not JSON"),
        (CHAT, b"[" * 100_000, 400, "The request is not JSON"),
        (CHAT, {"messages": MESSAGES, "model": "large"}, 404, "There is no model 'large' here; expected 'small'"),
        ("/v1/models/large", None, 404, "There is no model 'large' here"),
        ("/load_model", {"model": "/etc"}, 404, "Nothing is served at /load_model; expected /v1/chat/completions"),
        (CHAT, None, 405, "GET /v1/chat/completions: Method Not Allowed."),
    ],
)
def test_errors(door, path, body, status, message):
    found, data = call(door, path, body)
    assert found == status
    assert error_of(data).startswith(message)


def test_models_and_health(door):
    assert json.loads(call(door, "/v1/models")[1])["data"][0]["id"] == "small"
    assert json.loads(call(door, "/v1/models/small")[1])["id"] == "small"
    assert call(door, "/health")[0] == 200


def test_a_key_is_asked_for(engine, processor):
    door = Door(engine.app, RequestReader(processor, 2048), "small", "inside", "secret").app()
    for headers in ([], [("authorization", "Bearer other")]):
        for path, body in ((CHAT, {"messages": MESSAGES}), ("/v1/models", None)):
            status, data = call(door, path, body, headers)
            assert (status, "API key" in error_of(data)) == (401, True)
    assert call(door, body={"messages": MESSAGES}, headers=[("authorization", "Bearer secret")])[0] == 200
    assert call(door, "/health")[0] == 200
