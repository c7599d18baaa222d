"""What of serving with vLLM needs no vLLM: which checkpoints it takes, its command line, its process."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deepseek_vl_hf.nano.folder import nano_path
from deepseek_vl_hf.serving import vllm_plugin, vllm_server
from deepseek_vl_hf.serving.vllm_checkpoints import head_width, refusal
from family import FIXTURES, VL2_FAMILIES, VL_FAMILIES


def config_of(family):
    return json.loads((family.converted / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [*VL_FAMILIES, *VL2_FAMILIES])
def test_originals_are_to_be_converted(name):
    config = json.loads((FIXTURES / name / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    assert "Convert it first: deepseek-vl convert path/to/model DST" in refusal(config, "path/to/model", on_cpu=False)


@pytest.mark.parametrize("name", [*VL_FAMILIES, *VL2_FAMILIES])
def test_converted_checkpoints_are_taken_where_heads_are_wide_enough(families, name):
    config = config_of(families[name])
    width = 24 if name in ("vl2_mla", "vl2_sigmoid") else 16
    assert head_width(families[name].model.config.get_text_config()) == width
    assert refusal(config, "here", on_cpu=False) is None
    assert f"here has heads of width {width}" in refusal(config, "here", on_cpu=True)


def test_other_models_and_quantized_weights_are_refused(families):
    assert "model_type 'llama'; expected one of deepseek_vl," in refusal({"model_type": "llama"}, "here", on_cpu=False)
    config = {**config_of(families["vl"]), "quantization_config": {"quant_method": "deepseek_vl_int4"}}
    assert "quantized by 'deepseek_vl_int4'" in refusal(config, "here", on_cpu=False)


def test_the_packaged_model_can_be_served_because_it_is_converted(families):
    assert vllm_server.can_serve(nano_path()) is None
    assert "in the original layout" in vllm_server.can_serve(families["vl"].original)


@pytest.fixture
def arguments():
    return argparse.Namespace(model="nano", dtype=None, max_images=3, engine_arguments=["--dtype", "half"])


def test_the_users_arguments_stand_last_and_win(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    words = vllm_server.command(arguments, tmp_path, "small", ("127.0.0.1", 8000))
    assert words[3:5] == ["serve", str(tmp_path)]
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert options == {
        "--model-impl": "transformers",
        "--host": "127.0.0.1",
        "--port": "8000",
        "--served-model-name": "small",
        "--limit-mm-per-prompt": '{"image": 3}',
        "--dtype": "half",
    }
    arguments.dtype, arguments.engine_arguments = "bfloat16", []
    assert vllm_server.command(arguments, tmp_path, "small", ("127.0.0.1", 8000))[-2:] == ["--dtype", "bfloat16"]


def test_the_packaged_model_is_converted_and_the_key_is_a_variable(arguments, monkeypatch):
    seen, lines = {}, []

    def run_process(words, environment):
        folder = Path(words[4])
        seen.update(environment, config=json.loads((folder / "config.json").read_text(encoding="utf-8")), words=words)
        return 3

    monkeypatch.setattr(vllm_server, "run_process", run_process)
    assert vllm_server.run(arguments, "small", ("127.0.0.1", 8000), "a-secret", lines.append) == 3
    assert seen["config"]["model_type"] == "deepseek_vl_hybrid"
    assert seen["VLLM_API_KEY"] == "a-secret"
    assert not any("a-secret" in word for word in seen["words"])
    assert "converting it in" in lines[0]
    assert not Path(seen["words"][4]).exists()


def test_a_process_gives_its_exit_status():
    assert vllm_server.run_process([sys.executable, "-c", "raise SystemExit(7)"], {}) == 7


@pytest.mark.parametrize(("handler", "status"), [("", 128 + signal.SIGTERM), ("lambda *_: sys.exit(5)", 5)])
def test_signals_are_passed_on(tmp_path, handler, status):
    """To a program that ends by them, or by itself when it has heard of them."""
    ready = tmp_path / "ready"
    setting = f"signal.signal(signal.SIGTERM, {handler})" if handler else ""
    program = f"import signal, sys, time, pathlib\n{setting}\npathlib.Path({str(ready)!r}).touch()\ntime.sleep(60)"

    def stop():
        while not ready.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop).start()
    assert vllm_server.run_process([sys.executable, "-c", program], {}) == status
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_plugin_does_not_end_a_vllm_that_it_does_not_know(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "vllm", None)
    vllm_plugin.register()
    assert "deepseek_vl_hf knows 0.32 and 0.33, and DeepSeek-VL models will not work here" in caplog.text


def test_the_plugin_says_that_a_vllm_is_too_old(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.31.0"))
    vllm_plugin.register()
    assert "will not work here (it is older)" in caplog.text


def test_the_entry_point_names_the_plugin():
    """Read from the source, because an environment's metadata may be older."""
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    line = f'deepseek_vl_hf = "{vllm_plugin.__name__}:{vllm_plugin.register.__name__}"'
    assert f'[project.entry-points."vllm.general_plugins"]\n{line}\n' in declared
