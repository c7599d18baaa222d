"""What needs a second process: plain transformers beside ours, what an import loads, the memory of a process."""

import json
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from family import VL_FAMILIES
from forked import python
from packages import FORBIDDEN, OPTIONAL

# float32, another order of the same sums: measured 1e-6 relative.
TOLERANCE = 1e-5


def run(program: str, *arguments: str) -> str:
    """What a program prints in a process of its own."""
    result = python("-c", program, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


# What a program with any model of transformers imports; where torchao is installed, so does it.
WITHOUT_THE_PACKAGE = "import torch; from transformers import AutoModelForImageTextToText, AutoProcessor"


def test_importing_the_package_loads_nothing_early_and_says_nothing():
    early = FORBIDDEN | OPTIONAL | {"prompt_toolkit", "matplotlib", "jinja2", "deepseek_vl_hf.chat"}
    found = []
    for also in ("", "import deepseek_vl_hf"):
        program = f"{WITHOUT_THE_PACKAGE}\n{also}\nimport sys; print(sorted(set(sys.modules) & {early!r}))"
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        # torch begins a line with the time and the number of the process.
        found.append((result.stdout, re.sub(r"(?m)^W\d+ [\d:.]+ \d+ ", "", result.stderr)))
    assert found[1] == found[0]


def test_auto_classes_without_the_package(families):
    folders = [str(families[name].converted) for name in VL_FAMILIES]
    program = f"""
import json, transformers
print(json.dumps([
    type(getattr(transformers, auto).from_pretrained(folder)).__module__
    for auto in ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM",
                 "AutoProcessor", "AutoImageProcessor")
    for folder in {folders!r}
]))
"""
    modules = json.loads(run(program).splitlines()[-1])
    assert len(modules) == 6 * len(folders)
    assert all(module.startswith("transformers.models.deepseek_vl") for module in modules), modules


def test_int4_without_torchao():
    program = """
import sys
sys.modules["torchao"] = None
import deepseek_vl_hf
try:
    deepseek_vl_hf.int4_config()
except ImportError as error:
    print(error)
"""
    assert "pip install 'torchao>=0.18'" in run(program)


@pytest.mark.parametrize("family", VL_FAMILIES, indirect=True, scope="module")
def test_checkpoints_open_in_plain_transformers_and_back(family, tmp_path, relative):
    """A second interpreter without this package loads what we saved, saves it, and we load that."""
    model, inputs = family.model, family.inputs(2)
    model.save_pretrained(tmp_path / "ours")
    torch.save({"input_ids": inputs["input_ids"], **family.pixels(2)}, tmp_path / "inputs.pt")
    program = f"""
import json, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
model, info = AutoModelForImageTextToText.from_pretrained({str(tmp_path / "ours")!r}, output_loading_info=True)
inputs = torch.load({str(tmp_path / "inputs.pt")!r}, weights_only=True)
with torch.no_grad():
    torch.save(model(**inputs).logits, {str(tmp_path / "logits.pt")!r})
model.save_pretrained({str(tmp_path / "theirs")!r})
print(json.dumps([type(model).__module__, {{key: sorted(map(str, value)) for key, value in info.items()}}]))
"""
    module, info = json.loads(run(program).splitlines()[-1])
    assert module.startswith("transformers.models.")
    assert not any(info.values()), info
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert type(loaded) is type(model)
    assert not any(info.values()), info
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    theirs = torch.load(tmp_path / "logits.pt", weights_only=True)
    with torch.no_grad():
        assert relative(model(**inputs).logits, theirs) <= TOLERANCE


@pytest.mark.parametrize("family", VL_FAMILIES, indirect=True, scope="module")
def test_processors_open_in_plain_transformers_and_back(family, tmp_path, images):
    processor = family.processor
    processor.save_pretrained(tmp_path / "ours")
    family.model.config.save_pretrained(tmp_path / "ours")
    program = f"""
from transformers import AutoConfig, AutoProcessor
processor = AutoProcessor.from_pretrained({str(tmp_path / "ours")!r})
processor.save_pretrained({str(tmp_path / "theirs")!r})
AutoConfig.from_pretrained({str(tmp_path / "ours")!r}).save_pretrained({str(tmp_path / "theirs")!r})
print(type(processor).__module__, type(processor.image_processor).__module__)
"""
    assert all(module.startswith("transformers.models.") for module in run(program).split())
    loaded = AutoProcessor.from_pretrained(tmp_path / "theirs")
    assert type(loaded) is type(processor)
    inputs = {"text": "Look: <image_placeholder>", "images": str(images / "wide.png")}
    expected = processor(**inputs)
    for key, value in loaded(**inputs).items():
        assert torch.equal(value, expected[key]), key


MODELS = {
    "DeepseekVL": {
        "hidden_size": 1024,
        "intermediate_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "vocab_size": 20_000,
    },
    # Twelve layers as the tiny size, nearly all experts: a file holds them one by one, a layer in one tensor.
    "DeepseekVL2": {
        "hidden_size": 512,
        "intermediate_size": 64,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "use_mla": False,
        "vocab_size": 300,
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_loading_makes_no_second_copy(tmp_path, name):
    """A model of 200 MB is saved, and another interpreter watches its own memory while it loads it.

    Pages of the mapped file do not count: the system drops them when it needs them.
    """
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**MODELS[name], "bos_token_id": 0, "eos_token_id": 1}
    program = f"""
import sys, threading, torch
from pathlib import Path
from deepseek_vl_hf import {name}Config, {name}ForConditionalGeneration as Model
folder = {str(tmp_path / "model")!r}
def own():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024
if sys.argv[1] == "save":
    Model({name}Config(text_config={text!r}, vision_config={vision!r}, image_token_id=3)).save_pretrained(folder)
else:
    peak, before, done = [0], own(), threading.Event()
    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], own())
    thread = threading.Thread(target=watch)
    thread.start()
    model = Model.from_pretrained(folder, dtype=torch.float32)
    done.set()
    thread.join()
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    print(size, peak[0] - before)
"""
    run(program, "save")
    size, grown = map(int, run(program, "load").split())
    assert size > 200e6
    # A second copy would make it 2.
    assert grown < 1.15 * size
