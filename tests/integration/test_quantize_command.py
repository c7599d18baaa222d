"""`deepseek-vl quantize` as a program: what it writes, prints and refuses."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from deepseek_vl_hf import int4_config, quantization_report
from deepseek_vl_hf.cli import main
from family import FAMILIES
from forked import python

OPTIONS = ["--group-size", "32", "--device", "cpu"]


@pytest.mark.parametrize("family", FAMILIES, indirect=True, scope="module")
def test_quantizing(family, tmp_path, capsys):
    """The result opens without a word about quantization, and is what int4_config makes."""
    target = tmp_path / "target"
    assert main(["quantize", str(family.original), str(target), *OPTIONS, "--base-model", "a/b"]) == 0
    output = capsys.readouterr().out
    assert "layers quantized to 0.31 of their size" in output
    assert output.splitlines()[-1] == f"Wrote {target}"
    model = AutoModelForImageTextToText.from_pretrained(target).eval()
    processor = AutoProcessor.from_pretrained(target)
    assert str(quantization_report(model)) in output
    inputs = processor.apply_chat_template(
        family.conversations[0], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    expected = family.inputs(0)
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    same = AutoModelForImageTextToText.from_pretrained(
        family.original, dtype=torch.bfloat16, quantization_config=int4_config(32, "cpu")
    ).eval()
    inputs = inputs.to("cpu", dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, same(**inputs).logits)
    card = (target / "README.md").read_text()
    assert "base_model: a/b" in card
    assert "base_model_relation: quantized" in card
    assert len({path.stat().st_mode for path in target.iterdir()}) == 1


def test_refusals_leave_nothing(original, tmp_path, capsys):
    target = tmp_path / "target"
    for arguments, message in (
        ([str(tmp_path / "missing"), str(target)], "is no folder"),
        ([str(original), str(target), "--device", "tpu"], "device is 'tpu'; expected cpu or cuda"),
        ([str(original), str(original / "inside")], "the source is never written to"),
    ):
        assert main(["quantize", *arguments]) == 1
        assert message in capsys.readouterr().err
        assert not target.exists()
    assert main(["quantize", str(original), str(target), *OPTIONS, "--quiet"]) == 0
    assert main(["quantize", str(target), str(tmp_path / "again")]) == 1
    assert "has quantized weights already" in capsys.readouterr().err
    assert main(["convert", "--to", "original", str(target), str(tmp_path / "again")]) == 1
    assert "has quantized weights, which have no other layout" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]


@pytest.mark.parametrize("tensor", ["layers.1.self_attn.q_proj.weight", "lm_head.weight", "embed_tokens.weight", None])
def test_sources_that_are_not_whole(converted, tmp_path, capsys, tensor):
    """transformers fills what is missing with random numbers, and only reports it."""
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(converted, source)
    tensors = load_file(source / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if tensor is None or not name.endswith(tensor)}
    extra = {"model.more.weight": torch.zeros(1)} if tensor is None else {}
    save_file({**kept, **extra}, source / "model.safetensors", metadata={"format": "pt"})
    assert main(["quantize", str(source), str(target), *OPTIONS]) == 1
    told = capsys.readouterr().err
    if tensor is None:
        assert "holds 1 tensors that the model has no place for (model.more.weight)" in told
    else:
        assert f"lacks {len(tensors) - len(kept)} tensors of the model (" in told
    assert not target.exists()


def test_values_that_are_no_numbers_are_told(converted, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(converted, source)
    tensors = load_file(source / "model.safetensors")
    tensors["model.language_model.embed_tokens.weight"][3, :2] = torch.nan
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    assert main(["quantize", str(source), str(tmp_path / "target"), *OPTIONS]) == 0
    shown = capsys.readouterr().out
    assert "Note: 2 values in 1 tensors are NaN or infinite:" in shown
    assert "  model.language_model.embed_tokens.weight: 2" in shown


def test_a_full_disk(original, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=100))
    assert main(["quantize", str(original), str(tmp_path / "target"), *OPTIONS]) == 1
    assert "GB are free" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_torchao(original, tmp_path):
    program = (
        "import sys; sys.modules['torchao'] = None; from deepseek_vl_hf.cli import main; "
        f"sys.exit(main(['quantize', {str(original)!r}, {str(tmp_path / 'target')!r}]))"
    )
    result = python("-c", program)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: 4-bit weights need torchao 0.18")
    assert not (tmp_path / "target").exists()
