"""`deepseek-vl doctor`: what it finds here, and in installations that are broken."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import deepseek_vl_command
from deepseek_vl_command import doctor, main
from deepseek_vl_hf import fast_dtype

SOURCES = Path(deepseek_vl_command.__file__).parents[1]
FINE = {"torch": {"kernels": "AVX2", "abilities": ["avx2"], "threads": 8, "cuda": None, "rocm": None, "gpus": []}}
FINE["package"] = {"cpu": "float32", "default": "float32"}


def test_this_installation(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    required = {each["name"]: each for each in found["required"]}
    assert {"torch", "transformers", "tokenizers", "pillow", "accelerate", "huggingface_hub"} <= required.keys()
    assert required["transformers"]["version"] == metadata.version("transformers")
    assert required["transformers"]["wanted"] == "<5.25,>=5.18"
    assert all(each["fits"] for each in required.values())
    assert found["system"]["python"] == platform.python_version()
    assert found["package"]["cpu"] == str(fast_dtype("cpu")).removeprefix("torch.")
    assert found["torch"]["kernels"] == torch.backends.cpu.get_cpu_capability()
    assert len(found["torch"]["gpus"]) == torch.cuda.device_count()
    assert found["memory"]["bytes"] > found["memory"]["available_bytes"] > 0


@pytest.fixture
def probed(monkeypatch):
    """What the other process says is settled by the test."""
    found = {name: dict(content) for name, content in FINE.items()}
    monkeypatch.setattr(doctor, "_probe", lambda: found)
    return found


def test_an_untested_release(probed, monkeypatch, capsys):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "5.30.1" if name == "transformers" else version(name))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "Found transformers 5.30.1; supported is <5.25,>=5.18. pip install 'transformers<5.25,>=5.18'" in shown
    assert any(line.split()[:3] == ["WRONG", "transformers", "5.30.1"] for line in shown.splitlines())


def test_a_missing_package(probed, monkeypatch, capsys):
    version = metadata.version

    def without(name):
        if name in ("pillow", "torchao"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "pillow is not installed. pip install 'pillow>=10.1'" in shown
    assert "torchao is not installed" not in shown  # it is optional
    assert "With torchao, --int4" in shown


def test_what_would_be_faster(probed, monkeypatch, capsys):
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "no instructions for bfloat16, so models run in float32; --fast" in shown
    assert "torch uses 8 of 32 logical cores" in shown
    assert "NVIDIA's driver, but torch is built without CUDA" in shown
    probed["torch"] |= {"gpus": [{"name": "H200", "bytes": 139 * 2**30}], "cuda": "13.0"}
    probed["package"] = {"cpu": "float32", "default": "bfloat16"}
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "GPUs        H200, 139.0 GiB (torch is built for CUDA 13.0)" in shown
    assert "logical cores. Look" not in shown
    assert "--fast" not in shown


PROGRAM = """
import sys
before = set(sys.modules)
from deepseek_vl_command import main
status = main(["doctor"])
loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(status, *sorted(loaded), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("torch_of_the_test", "said"),
    [
        ("raise ImportError('libtorch_cpu.so: wrong\\n ELF class')", "ImportError: libtorch_cpu.so: wrong ELF class"),
        ("import os; os._exit(132)", "importing it ended the process (exit status 132)"),
        ("import os; os.kill(os.getpid(), 11)", "importing it ended the process (exit status -11)"),
    ],
)
def test_a_torch_that_cannot_be_imported(tmp_path, torch_of_the_test, said):
    """The report comes all the same, and this process imports nothing of it."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(torch_of_the_test, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, SOURCES)))}
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert f"torch cannot be imported: {said}" in result.stdout
    assert "deepseek_vl_hf cannot be imported: " in result.stdout
    assert "Required packages" in result.stdout
    assert result.stderr.split() == ["1", "deepseek_vl_command", "packaging"]
