"""The model card of a converted checkpoint: its metadata, its figures, and snippets that run."""

import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.checkpoints.conversion.model_card import PUBLISHED
from forked import python

PICTURES = Path(__file__).parents[2] / "examples" / "pictures"
NUM_SNIPPETS = 3
# Of the small checkpoints, without those that nothing reads.
TENSORS = {"vl": 54, "vl_hybrid": 130, "vl2_mha": 115, "vl2_mla": 118, "vl2_sigmoid": 120}


@pytest.fixture(scope="module")
def verified(families, tmp_path_factory):
    """By family: a checkpoint that was verified while it was converted."""
    folder = tmp_path_factory.mktemp("verified")
    return {
        name: convert_checkpoint(family.original, folder / name, verify=True).folder
        for name, family in families.items()
    }


@pytest.fixture
def card(verified, family):
    return ModelCard.load(verified[family.name] / "README.md")


def test_metadata(card, family):
    data = card.data
    assert (data.license, data.license_name) == (("mit", None) if family.is_ocr else ("other", "deepseek"))
    repository = {"vl2_mha": "DeepSeek-VL2", "deepseek_ocr": "DeepSeek-OCR"}.get(family.name, "DeepSeek-VL")
    assert data.license_link.startswith(f"https://github.com/deepseek-ai/{repository}/")
    assert ("Llama" in card.text) is not family.has_experts
    assert ("Plain transformers" in card.text) is not family.has_experts
    assert ("temperature of at most 0.7" in card.text) is family.is_vl2
    assert data.pipeline_tag == "image-text-to-text"
    assert data.to_dict()["library_name"] == "transformers"
    assert family.model.config.model_type.replace("_", "-") in data.tags
    assert data.base_model is None  # the fixture's folder has no published name
    assert len(data.tags) == len(set(data.tags))


@pytest.mark.parametrize("name", TENSORS)
def test_figures_of_the_verification(verified, name):
    card, compared = ModelCard.load(verified[name] / "README.md"), TENSORS[name]
    assert f"| tensors compared with the source | {compared} of {compared} equal, bit for bit |" in card.text
    assert "| largest difference of its logits | 0.0 |" in card.text
    assert "| greedy answer of 8 tokens | equal |" in card.text
    assert "* Left out: 13 tensors (the pooling head" in card.text


def test_without_verification_no_figures_are_claimed(family):
    text = (family.converted / "README.md").read_text(encoding="utf-8")
    assert "Verified" not in text
    assert "equal" not in text


def test_which_class_is_whose(card, family):
    """transformers has classes of these names for two of the families."""
    line = f"from deepseek_vl_hf import {type(family.model).__name__}"
    assert (line in card.text) == (not family.has_experts)


def test_no_trace_of_the_template(card):
    assert not re.search(r"[{}]{2}|{%|%}|None|\n{3}", card.text)


@pytest.mark.parametrize("folder", ["deepseek-vl-7b-chat", "deepseek-vl-1.3b-base"])
def test_a_published_folder_is_recognized(original, tmp_path, folder):
    shutil.copytree(original, tmp_path / folder)
    convert_checkpoint(tmp_path / folder, tmp_path / "target")
    card = ModelCard.load(tmp_path / "target" / "README.md")
    assert card.data.base_model == PUBLISHED[folder] == f"deepseek-ai/{folder}"
    assert f"from [deepseek-ai/{folder}](https://huggingface.co/deepseek-ai/{folder})" in card.text


def test_a_named_origin(original, tmp_path):
    convert_checkpoint(original, tmp_path / "target", base_model="someone/fine-tune")
    assert ModelCard.load(tmp_path / "target" / "README.md").data.base_model == "someone/fine-tune"


def test_the_original_layout_has_a_card_too(restored):
    card = ModelCard.load(restored["vl"] / "README.md")
    assert "in the original layout" in card.text
    assert "Plain transformers" not in card.text


def snippets(card):
    found = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert len(found) == NUM_SNIPPETS
    return found


def test_snippets_run(card, verified, family):
    """Each with names of its own, in one program."""
    program = ""
    for snippet in snippets(card):
        assert "deepseek_vl_hf" in snippet
        program += f"exec({snippet!r}, {{}})\n"
    program = program.replace("path/to/this/model", str(verified[family.name]))
    for name, picture in (("picture.jpg", "shapes.png"), ("first.jpg", "chart.png"), ("second.jpg", "words.png")):
        program = program.replace(name, str(PICTURES / picture))
    program = program.replace("group_size=128", "group_size=32")  # widths of the small model
    result = python("-c", program)
    assert result.returncode == 0, result.stderr
