"""transformers' server with real models and the client that people have: OpenAI's."""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import transformers
from transformers.models.auto import modeling_auto

pytest.importorskip("fastapi", reason="needs what a server needs: pip install 'transformers[serving]'")
openai = pytest.importorskip("openai", reason="needs OpenAI's client: pip install 'transformers[serving]'")

import deepseek_vl_hf
from addresses import free_port
from deepseek_vl_hf import Chat
from deepseek_vl_hf.registration import register, unregister
from deepseek_vl_hf.serving import transformers_server
from family import FAMILIES, IMAGES, VL2_FAMILIES

pytestmark = pytest.mark.server

NEW_TOKENS = 12
ROOT = Path(__file__).parents[2]


def uri(path):
    return f"data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def picture(path):
    return {"type": "image_url", "image_url": {"url": uri(path)}}


def text(words):
    return {"type": "text", "text": words}


@contextlib.contextmanager
def served(model, processor, name):
    """A client of a server in a thread of this process."""
    port = free_port()
    server = transformers_server.server_of(model, processor, name, ("127.0.0.1", port), None, 16)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    finally:
        server.should_exit = True
        thread.join()


def generated(model, processor, messages, **arguments):
    """What our `generate` answers, in text as servers give it."""
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS, **arguments)
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).lstrip()


def answer(client, name, messages, **arguments):
    found = client.chat.completions.create(model=name, messages=messages, max_tokens=NEW_TOKENS, **arguments)
    return found.choices[0].message.content


FIRST, SECOND = sorted(IMAGES.glob("*.png"))[:2]
CONVERSATIONS = {
    "text": [{"role": "user", "content": "Who are you?"}],
    "one picture": [{"role": "user", "content": [picture(FIRST), text("What is it?")]}],
    "two pictures": [{"role": "user", "content": [text("This: "), picture(FIRST), text("and"), picture(SECOND)]}],
    "second turn": [
        {"role": "user", "content": [picture(SECOND), text("What is it?")]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "What color?"},
    ],
    "typed control text": [{"role": "user", "content": "What does <image_placeholder> or <image> mean?"}],
}


@pytest.mark.parametrize("name", [*FAMILIES, *VL2_FAMILIES[1:]])
def test_answers_are_those_of_generate(families, name):
    """Alone, at once, and as a stream."""
    family = families[name]
    model, processor = family.load(), family.processor
    expected = {kind: generated(model, processor, messages) for kind, messages in CONVERSATIONS.items()}
    with served(model, processor, name) as client:
        alone = {kind: answer(client, name, messages) for kind, messages in CONVERSATIONS.items()}
        with ThreadPoolExecutor() as pool:
            asked = {kind: pool.submit(answer, client, name, messages) for kind, messages in CONVERSATIONS.items()}
        streamed = client.chat.completions.create(
            model=name, messages=CONVERSATIONS["one picture"], max_tokens=NEW_TOKENS, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert alone == expected
    assert {kind: future.result() for kind, future in asked.items()} == expected
    # A stream waits for the rest of a character, also where an answer ends within one.
    assert "".join(pieces) == expected["one picture"].rstrip("\ufffd")


def test_sampling_and_stops(families):
    family = families["vl"]
    model, processor = family.load(), family.processor
    messages = CONVERSATIONS["one picture"]
    whole = generated(model, processor, messages)
    stop = whole[4:6]
    with served(model, processor, "vl") as client:
        assert answer(client, "vl", messages, stop=stop) == whole[: whole.find(stop)]
        drawn = {answer(client, "vl", messages, temperature=2.0, seed=seed) for seed in (1, 2, 1)}
        several = client.chat.completions.create(
            model="vl", messages=messages, max_tokens=NEW_TOKENS, n=2, temperature=2.0, seed=1
        )
    assert len(drawn) == 2
    assert {choice.message.content for choice in several.choices} == drawn
    assert several.usage.completion_tokens == 2 * NEW_TOKENS


@pytest.mark.parametrize("stream", [False, True])
def test_what_names_places_in_a_picture_is_part_of_the_answer(families, stream):
    family = families["vl2_mha"]
    token = family.processor.tokenizer.convert_tokens_to_ids("<|ref|>")
    with served(family.load(), family.processor, "vl2") as client:
        found = client.chat.completions.create(
            model="vl2", messages=CONVERSATIONS["text"], max_tokens=3, logit_bias={str(token): 100}, stream=stream
        )
        if stream:
            text_of = "".join(chunk.choices[0].delta.content or "" for chunk in found)
        else:
            text_of = found.choices[0].message.content
    assert text_of == "<|ref|>" * 3


def test_generate_takes_a_processor_as_tokenizer(families):
    """Texts to stop at are looked up in a tokenizer; a processor is what people have at hand, and the server passes."""
    family = families["vl"]
    messages = CONVERSATIONS["one picture"]
    whole = generated(family.model, family.processor, messages)
    found = generated(family.model, family.processor, messages, stop_strings=whole[4:6], tokenizer=family.processor)
    assert whole[4:6] in found
    assert len(found) < len(whole)


def test_servers_of_transformers_know_vl2():
    """`transformers serve` takes it from its own tables and module; `unregister` takes that back."""
    names = modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    assert names["deepseek_vl2"] == "DeepseekVL2ForConditionalGeneration"
    assert transformers.DeepseekVL2ForConditionalGeneration is deepseek_vl_hf.DeepseekVL2ForConditionalGeneration
    unregister()
    try:
        assert "deepseek_vl2" not in names
        assert not hasattr(transformers, "DeepseekVL2ForConditionalGeneration")
    finally:
        register()


@pytest.fixture(scope="module")
def nano():
    return Chat.from_pretrained()


@pytest.fixture(scope="module")
def nano_client(nano):
    with served(nano.model, nano.processor, "nano") as client:
        yield client


QUESTIONS = ("What color is the circle?", "How many shapes are there?", "Describe the picture.", "Read the text.")


def test_the_example_of_the_page(nano_client, capsys):
    (snippet,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), re.DOTALL
    )
    for name, value in (
        ("http://127.0.0.1:8000/v1", str(nano_client.base_url)),
        ("path/to/model", "nano"),
        ("https://example.com/picture.png", uri(ROOT / "examples" / "pictures" / "shapes.png")),
        ("What is in the picture?", "How many shapes are there?"),
    ):
        assert name in snippet
        snippet = snippet.replace(name, value)
    exec(snippet, {})
    assert capsys.readouterr().out.splitlines()[-1] == "4"


def test_fifty_at_once(nano, nano_client):
    """None fails, and each answer is the one that it is alone."""
    asked = [
        [{"role": "user", "content": [picture(path), text(question)]}]
        for path in sorted(IMAGES.glob("*.png"))[:3]
        for question in QUESTIONS
    ]
    expected = [generated(nano.model, nano.processor, messages) for messages in asked]
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda number: answer(nano_client, "nano", asked[number % len(asked)]), range(50)))
    assert found == [expected[number % len(asked)] for number in range(50)]


def test_a_client_that_leaves_ends_its_answer(nano, nano_client):
    steps = []

    def count(*_):
        steps.append(1)
        time.sleep(0.005)

    hook = nano.model.register_forward_pre_hook(count)
    without_end = {str(nano.model.generation_config.eos_token_id): -100}
    stream = nano_client.chat.completions.create(
        model="nano", messages=CONVERSATIONS["text"], stream=True, max_tokens=1500, logit_bias=without_end
    )
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    time.sleep(1)
    done = len(steps)
    time.sleep(0.5)
    assert len(steps) == done  # to the end it would take seven seconds at least
    hook.remove()
    assert answer(nano_client, "nano", CONVERSATIONS["one picture"])


def test_refusals_leave_the_server_at_work(nano_client):
    for messages, status in (([], 400), (CONVERSATIONS["text"] * 2000, 400)):
        with pytest.raises(openai.APIStatusError) as caught:
            answer(nano_client, "nano", messages)
        assert caught.value.status_code == status
    with pytest.raises(openai.NotFoundError, match="There is no model 'gpt' here; expected 'nano'"):
        answer(nano_client, "gpt", CONVERSATIONS["text"])
    assert answer(nano_client, "nano", CONVERSATIONS["one picture"])


@contextlib.contextmanager
def command(*words, **variables):
    """The process of `deepseek-vl serve`, its output, and the port."""
    port = free_port()
    line = [sys.executable, "-m", "deepseek_vl_command", "serve", "--port", str(port), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(port):
    for _ in range(600):
        with (
            contextlib.suppress(urllib.error.URLError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as found,
        ):
            return json.load(found)
        time.sleep(0.1)
    raise AssertionError("the server did not start")


def test_the_command():
    """Says what runs and where, asks for a key, is there again when it was killed, and ends when it is told to.

    First with packed weights, then with weights of 4 bits.
    """
    for last, option in ((False, "--fast"), (True, "--int4")):
        with command("--name", "tiny", option, DEEPSEEK_VL_API_KEY="secret") as (process, port):
            assert wait_for(port) == {"status": "ok"}
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="secret", max_retries=0)
            assert [model.id for model in client.models.list()] == ["tiny"]
            assert answer(client, "tiny", CONVERSATIONS["one picture"])
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="other").models.list()
            if last:
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) in (0, 143, -signal.SIGTERM)
                said = process.stdout.read()
                assert re.search(r"Engine: transformers\. ", said)
                assert f"http://127.0.0.1:{port}/v1" in said


def test_a_port_in_use_is_said_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = [sys.executable, "-m", "deepseek_vl_command", "serve", "--port", str(taken.getsockname()[1])]
        found = subprocess.run(line, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "Nothing can be served at 127.0.0.1, port" in found.stderr
