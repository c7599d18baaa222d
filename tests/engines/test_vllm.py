"""vLLM with our plugin: the ids of our own `generate`, offline and over HTTP.

Each engine runs in a process of its own, as users start it, so the plugin is found by its entry point alone.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from addresses import free_port
from asking import MOST_TOKENS, conversations, picture, user
from deepseek_vl_hf.nano.folder import nano_path
from family import FIXTURES, VL2_FAMILIES, VL_FAMILIES

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; make test-vllm installs it"),
]

HERE = Path(__file__).parent
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "2"}
ENGINE = {
    "model_impl": "transformers",
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 3072,
    "max_num_seqs": 8,
    "limit_mm_per_prompt": {"image": 4},
}


@pytest.fixture
def ask(tmp_path):
    """Asks the offline engine about groups of conversations."""

    def asked(model, groups, chat=None, environment=None, **engine):
        requests = {"model": str(model), "engine": {**ENGINE, **engine}, "chat": chat or {}}
        requests |= {"groups": groups, "max_tokens": MOST_TOKENS}
        (tmp_path / "requests.json").write_text(json.dumps(requests), encoding="utf-8")
        command = [sys.executable, str(HERE / "offline.py"), tmp_path / "requests.json", tmp_path / "answers.json"]
        log = tmp_path / "log"
        with log.open("w", encoding="utf-8") as output:
            variables = {**os.environ, **ENVIRONMENT, **(environment or {})}
            done = subprocess.run(
                command, env=variables, stdout=output, stderr=subprocess.STDOUT, timeout=300, check=False
            )
        assert done.returncode == 0, log.read_text(encoding="utf-8")[-6000:]
        return json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))

    return asked


def engine_length(name):
    """The packaged model is made for 2048 positions."""
    return {"max_model_len": 2048} if name == "nano" else {}


def check_equal(ask, ours, folder, name, **settings):
    """Alone, all at once, and again, when the engine has pictures and prefixes in its caches."""
    asked = conversations()
    expected = {case: ours[name].answer(conversation) for case, conversation in asked.items()}
    alone = [[conversation] for conversation in asked.values()]
    at_once = [asked[case] for case in ("two pictures", "three pictures", "one picture")]
    found = ask(folder, [*alone, list(asked.values()), at_once], **engine_length(name), **settings)["groups"]
    assert [group[0] for group in found[: len(alone)]] == list(expected.values())
    assert found[len(alone)] == list(expected.values())
    assert found[-1] == [expected[case] for case in ("two pictures", "three pictures", "one picture")]
    # Of which the ids tell something: neither model nor answers are all alike.
    answers = [tuple(each["answer"]) for each in expected.values()]
    assert len(set(answers)) == len(answers)


@pytest.mark.parametrize("name", ["nano", *VL_FAMILIES, *VL2_FAMILIES])
def test_ids_are_those_of_our_generate(ask, ours, small_models, name):
    check_equal(ask, ours, small_models[name], name)


def test_ids_are_the_same_with_latents_in_the_cache(ask, ours, small_models):
    """As on a GPU; vLLM's kernel for it on a CPU is a slow one, which our plugin does not ask for by itself."""
    check_equal(ask, ours, small_models["vl2_mla"], "vl2_mla", environment={"VLLM_MLA_DISABLE": "0"})


def test_ids_are_the_same_compiled(ask, ours, small_models):
    """As vLLM runs models unless it is told otherwise; DeepSeek-MoE's `forward` has a form of its own for it."""
    check_equal(ask, ours, small_models["vl2_sigmoid"], "vl2_sigmoid", enforce_eager=False)


def test_pictures_are_not_cut_where_a_request_says_so(ask, ours, small_models):
    """Here without naming an implementation; vLLM finds ours by the architecture's name."""
    conversation = [user(picture("wide.png"), "What is in the picture?")]
    cut = ours["vl2_mha"].answer(conversation)
    whole = ours["vl2_mha"].answer(conversation, processor_kwargs={"tiling": False})
    assert len(whole["prompt"]) < len(cut["prompt"])
    settings = {"chat": {"mm_processor_kwargs": {"tiling": False}}, "model_impl": "auto"}
    found = ask(small_models["vl2_mha"], [[conversation]], **settings)
    assert found["groups"] == [[whole]]


@pytest.mark.parametrize(
    ("folder", "implementation"),
    [(nano_path(), "transformers"), (nano_path(), "auto"), (FIXTURES / "vl2_mla" / "checkpoint", "transformers")],
    ids=["hybrid", "hybrid, any implementation", "vl2"],
)
def test_originals_are_refused_early(ask, folder, implementation):
    found = ask(folder, [], model_impl=implementation, max_model_len=1024)
    assert f"Convert it first: deepseek-vl convert {folder} DST" in found["error"]


def test_narrow_heads_are_refused_early_on_a_cpu(ask, families):
    found = ask(families["vl"].converted, [])
    assert "has heads of width 16; vLLM's attention on a CPU has 32, 64" in found["error"]


class Server:
    """`deepseek-vl serve --engine vllm` on a free port.

    Args:
        log: file for what it says.
        words: of the command line, after the address.
        key: that it asks for.
    """

    def __init__(self, log, words, key):
        self.log, self.key, port = log, key, free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "deepseek_vl_command", "serve", *words[:1], "--engine", "vllm"]
        command += ["--port", str(port), *words[1:]]
        variables = {**os.environ, **ENVIRONMENT, "DEEPSEEK_VL_API_KEY": key}
        with log.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
        self.wait()

    def wait(self):
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
            except OSError:
                assert self.process.poll() is None, self.log.read_text(encoding="utf-8")[-6000:]
                time.sleep(0.5)
            else:
                return
        raise AssertionError(self.log.read_text(encoding="utf-8")[-6000:])

    def chat(self, conversation, key=None, **settings):
        """(status, body) of a request."""
        body = {"model": "small", "messages": conversation, "temperature": 0, "max_tokens": MOST_TOKENS, **settings}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or self.key}"}
        request = urllib.request.Request(f"{self.address}/v1/chat/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self):
        """Asks it to stop, as a service manager does; gives its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The packaged model, which the command converts first."""
    words = ["nano", "--name", "small", "--dtype", "float32", "--max-images", "4", "--", "--enforce-eager"]
    server = Server(tmp_path_factory.mktemp("server") / "log", [*words, "--max-model-len", "2048"], "a-secret")
    yield server
    if server.process.poll() is None:
        server.stop()


def test_answers_over_http_are_those_of_our_generate(server, ours):
    for case, conversation in conversations().items():
        expected = ours["nano"].answer(conversation)
        status, body = server.chat(conversation)
        assert status == 200, body
        assert body["choices"][0]["message"]["content"] == ours["nano"].text(expected["answer"]), case
        assert body["usage"]["prompt_tokens"] == len(expected["prompt"]), case


def test_requests_that_cannot_be_answered_get_a_sentence(server):
    square = picture("square.png")
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for conversation, sentence in (
        ([user(broken, "What is it?")], "cannot identify image file"),
        ([user(*[square] * 5, "What is it?")], "At most 4 image"),
        ([{"role": "system", "content": [square]}, user("What is it?")], "images belong in user messages"),
        ([user("?" * 20000)], "maximum context length"),
    ):
        status, body = server.chat(conversation)
        assert status == 400, body
        assert sentence in body
    assert server.chat([user("What is it?")], key="another")[0] == 401
    assert server.chat([user("What is it?")])[0] == 200


def test_the_key_is_in_no_command_line_and_the_server_stops_when_asked(server):
    """Last, because it stops the server."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert any(b"vllm.entrypoints.cli.main" in line for line in lines)
    assert not any(b"a-secret" in line for line in lines)
    folder = server.log.read_text(encoding="utf-8").partition("converting it in ")[2].partition(" ")[0]
    assert Path(folder).is_dir()
    assert server.stop() == 0
    assert not Path(folder).exists()
