"""A server for OpenAI clients: requests as they come in, and texts that end an answer."""

import base64
import io

import pytest
from PIL import Image

from deepseek_vl_hf.serving import requests
from deepseek_vl_hf.serving.requests import RequestError, RequestReader
from deepseek_vl_hf.serving.stops import StreamCutter, cut

CONTEXT = 2048


def data_uri(size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def ask(text="What is it?", *urls):
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def reader(family):
    return RequestReader(family.processor, CONTEXT)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two", ["two"], ("one ", True)),
        ("one two", ["two", "ne"], ("o", True)),
        ("one two", ["three"], ("one two", False)),
        ("one two", [], ("one two", False)),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_an_answer_ends_where_it_is_asked_to(text, stops, expected, size):
    assert cut(text, stops) == expected
    cutter = StreamCutter(stops)
    pieces = [cutter.feed(text[start : start + size]) for start in range(0, len(text), size)]
    assert ("".join(pieces) + cutter.end(), cutter.found) == expected


def test_a_stream_keeps_back_no_more_than_it_must():
    cutter = StreamCutter(["END"])
    assert [cutter.feed(piece) for piece in (" ", " a", "E", "N", "x", "EN")] == ["", "a", "", "", "ENx", ""]
    assert cutter.end() == "EN"


def test_what_reaches_the_engine(family, reader):
    uri = data_uri()
    wanted = reader.read({"messages": ask("Hi", uri), "stop": "x", "n": 2, "max_tokens": 9, "user": "me"})
    assert (wanted.choices, wanted.stops, wanted.stream) == (2, ("x",), False)
    assert wanted.body == {
        "messages": ask("Hi", uri),
        "temperature": 0,
        "stop": ["x"],
        "max_tokens": 9,
    }


def test_an_answer_has_the_room_behind_its_prompt(family, reader):
    """The pictures' tokens are counted without the model; the prompt is the one that `generate` will get."""
    messages = ask("Hi", data_uri(), data_uri((500, 900)))
    inputs = family.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    room = reader.read({"messages": messages, "max_completion_tokens": 10**400}).body["max_tokens"]
    assert room == CONTEXT - inputs["input_ids"].shape[1]


def test_temperature_says_whether_tokens_are_drawn(family):
    greedy, drawing = RequestReader(family.processor, CONTEXT), RequestReader(family.processor, CONTEXT, draws=True)
    messages = ask()
    assert greedy.read({"messages": messages}).body["temperature"] == 0
    assert greedy.read({"messages": messages, "top_p": 0.5}).body["temperature"] == 1
    assert "temperature" not in drawing.read({"messages": messages}).body
    assert drawing.read({"messages": messages, "repetition_penalty": 1.5}).body["frequency_penalty"] == 0.5


def test_the_role_of_a_developer_is_the_systems(family, reader):
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    if family.is_ocr:
        with pytest.raises(RequestError, match="DeepSeek-OCR has no system prompt"):
            reader.read({"messages": messages})
        return
    assert [each["role"] for each in reader.read({"messages": messages}).body["messages"]] == ["system", "user"]


def test_a_link_is_fetched_before_the_engine_is_asked(reader, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    monkeypatch.setattr(requests, "fetch", lambda url, private: (url, private) and file.getvalue())
    content = reader.read({"messages": ask("Hi", "https://example.com/a.png")}).body["messages"][0]["content"]
    head, _, data = content[0]["image_url"]["url"].partition(",")
    assert head.endswith(";base64")
    assert base64.b64decode(data) == file.getvalue()


def test_a_link_that_fails_without_words_is_named(reader, monkeypatch):
    def fail(url, private):
        raise TimeoutError

    monkeypatch.setattr(requests, "fetch", fail)
    with pytest.raises(RequestError, match=r"a\.png', cannot be fetched: TimeoutError"):
        reader.read({"messages": ask("Hi", "https://example.com/a.png")})


BAD = {
    "no object": ([], "is a JSON list; expected an object"),
    "no messages": ({}, "no messages"),
    "a role": ({"messages": [{"role": "robot", "content": "x"}]}, "has the role 'robot'"),
    "a file": ({"messages": ask("?", "file:///etc/passwd")}, "'file:///etc/passwd', which this server does not read"),
    "a path": ({"messages": ask("?", "/etc/passwd")}, "'/etc/passwd', which this server does not read"),
    "a path as image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "path": "/etc/passwd"}]}]},
        "Image 0 of 1 holds no link",
    ),
    "a private address": (
        {"messages": ask("?", "http://127.0.0.1:1/a.png")},
        "127.0.0.1 is an address of this machine",
    ),
    "a broken picture": ({"messages": ask("?", data_uri(), "data:image/png;base64,AAAA")}, "Image 1 of 2: No image"),
    "too many": ({"messages": ask("?", *[data_uri()] * 17)}, "has 17 pictures; at most 16"),
    "too long": ({"messages": ask("word " * 3000)}, "2047 fit, because the model was trained for 2048"),
    "a tool": ({"messages": ask(), "tools": [{"type": "function"}]}, "holds 'tools', which this engine cannot do"),
    "a format": ({"messages": ask(), "response_format": {"type": "json_object"}}, "'response_format', which"),
    "probabilities": ({"messages": ask(), "logprobs": True}, "'logprobs', which this engine cannot do"),
    "a temperature": ({"messages": ask(), "temperature": -1}, "temperature is -1; expected a finite number from 0"),
    "a tiny temperature": ({"messages": ask(), "temperature": 1e-9}, "temperature is 1e-09; expected"),
    "top_p": ({"messages": ask(), "top_p": 0}, "top_p is 0; expected a finite number above 0 to 1"),
    "n": ({"messages": ask(), "n": 17}, "n is 17; expected a whole number from 1 to 16"),
    "a length": ({"messages": ask(), "max_tokens": 0}, "max_tokens is 0; expected a whole number from 1 up"),
    "a stop": ({"messages": ask(), "stop": ["a", ""]}, "stop is ['a', '']; expected"),
    "a bias of thousands of digits": ({"messages": ask(), "logit_bias": {"9" * 5000: 1}}, "logit_bias holds '999"),
    "a bias": ({"messages": ask(), "logit_bias": {"-1": 1}}, "logit_bias holds '-1': 1; expected"),
    "stream": ({"messages": ask(), "stream": "yes"}, "stream is 'yes'; expected true or false"),
    "penalties": (
        {"messages": ask(), "frequency_penalty": 1, "repetition_penalty": 1.1},
        "both frequency_penalty and repetition_penalty",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_named(reader, case):
    body, message = BAD[case]
    with pytest.raises(RequestError) as caught:
        reader.read(body)
    assert message in str(caught.value)
    assert caught.value.status == 400


def test_what_asks_for_nothing_is_no_wish(reader):
    empty = {"tools": [], "logprobs": False, "presence_penalty": 0, "response_format": {"type": "text"}, "audio": None}
    assert reader.read({"messages": ask(), **empty}).body["messages"]
