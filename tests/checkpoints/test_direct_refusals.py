"""What does not add up is refused when it is loaded as it is when it is converted; what is asked for works."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from editing import INDEX, change_all, edit, edit_shard, remove_weights, tensors_of
from safetensors.torch import load_file, save_file
from test_bad_input import DAMAGED, NORM
from transformers import AutoModel, AutoModelForImageTextToText, pipeline

from deepseek_vl_hf import Chat, DeepseekVLForConditionalGeneration
from deepseek_vl_hf.hf.versions import INSTALLED

# The kinds of damage that concern weights, and what is said of them where that differs from the conversion.
WEIGHTS = {
    "unknown tensor": r"holds 1 tensors that the model has no place for \(extra\)",
    "missing tensor": r"lacks 1 tensors of the model \(model.language_model.norm.weight\), which would be random",
    "tensor in two shards": None,
    "tensor twice in a file": None,
    "tensor twice in the index": None,
    "wrong shape": r"aligner.linear2.weight: found \[3, 3\], expected \[64, 64\]",
    "uneven split": r"self_attn.v_proj.bias: found \[31\], expected \[32\]",
    "half a shard": None,
    "shard without its last byte": None,
    "shard within its header": None,
    "empty shard": None,
    "bytes after the tensors": None,
    "header that is no JSON": None,
    "unknown type": rf"holds '{NORM}' as F12; expected floating-point",
    "size against the shape": None,
    "overlap": None,
    "shard of another checkpoint": None,
    "path in the index": None,
    "number in the index": None,
    "missing shard": None,
    "weights of integers": rf"holds '{NORM}' as torch.int8; expected floating-point weights",
    "one file and an index": None,
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_damaged_weights(source, kind):
    damage, error, message = DAMAGED[kind]
    damage(source)
    with pytest.raises(error, match=WEIGHTS[kind] or message):
        AutoModelForImageTextToText.from_pretrained(source)


def test_an_index_that_says_nothing(source):
    edit(source / INDEX, lambda index: index.update(weight_map=[]))
    with pytest.raises(ValueError, match=f"{INDEX} has no weight_map"):
        AutoModelForImageTextToText.from_pretrained(source)


def test_an_index_that_transformers_cannot_read(source):
    edit(source / INDEX, lambda index: index.pop("metadata"))
    with pytest.raises(ValueError, match=f"{INDEX} has no metadata"):
        AutoModelForImageTextToText.from_pretrained(source)


def test_the_same_tensor_in_two_pickles(source):
    tensors = tensors_of(source)
    remove_weights(source)
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    torch.save(tensors, source / names[0])
    torch.save({NORM: torch.zeros_like(tensors[NORM])}, source / names[1])
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, names[0]) | {NORM: names[1]}}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"disagree on 1 tensors, such as '{NORM}'"):
        AutoModelForImageTextToText.from_pretrained(source)


def test_quantized_originals(source):
    edit(source / "config.json", lambda config: config.update(quantization_config={"quant_method": "gptq"}))
    with pytest.raises(ValueError, match="in the original layout and has a quantization_config"):
        AutoModelForImageTextToText.from_pretrained(source)


def test_every_way_in_refuses(source):
    """Two layers' worth of random numbers would answer, and nobody would notice."""
    change_all(source, lambda name, tensor: tensor)
    edit_shard(source / "model.safetensors", lambda tensors: tensors.pop(NORM))
    ways = [AutoModel.from_pretrained, Chat.from_pretrained]
    if INSTALLED.release >= (5, 20):  # before, a pipeline tries transformers' own class next, and tells its error
        ways.append(lambda folder: pipeline("image-text-to-text", model=str(folder)))
    for load in ways:
        with pytest.raises(ValueError, match="lacks 1 tensors of the model"):
            load(source)


@pytest.fixture
def copy(converted, tmp_path):
    """A copy of the transformers layout that a test may change."""
    return Path(shutil.copytree(converted, tmp_path / "copy"))


def test_parts_that_shall_be_random(copy):
    """The way back from a model without its head, which begins random because that was asked for."""
    base = AutoModel.from_pretrained(copy)
    base.save_pretrained(copy.parent / "base")
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the model \(lm_head.weight\).* pass strict=False"):
        AutoModelForImageTextToText.from_pretrained(copy.parent / "base")
    model = AutoModelForImageTextToText.from_pretrained(copy.parent / "base", strict=False)
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in model.model.state_dict().items())
    assert model.lm_head.weight.float().std() > 0


def test_the_lists_are_for_who_asks(copy):
    edit_shard(
        copy / "model.safetensors",
        lambda tensors: (
            tensors.pop("lm_head.weight"),
            tensors.update(more=tensors["model.language_model.norm.weight"].clone()),
        ),
    )
    _, info = AutoModelForImageTextToText.from_pretrained(copy, output_loading_info=True)
    assert info["missing_keys"] == {"lm_head.weight"}
    assert info["unexpected_keys"] == {"more"}


def test_sizes_that_may_differ(copy):
    model = AutoModelForImageTextToText.from_pretrained(copy, dtype=torch.float32)
    kept = model.model.aligner.linear1.weight.clone()
    config = model.config
    config.text_config.vocab_size += 8
    with pytest.raises(ValueError, match=r"found \[640, 64\], expected \[648, 64\]"):
        AutoModelForImageTextToText.from_pretrained(copy, config=config)
    larger = AutoModelForImageTextToText.from_pretrained(
        copy, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    assert larger.lm_head.out_features == 648
    assert torch.equal(larger.model.aligner.linear1.weight, kept)


def test_resized_vocabulary_and_tied_head(copy):
    model = AutoModelForImageTextToText.from_pretrained(copy)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.resize_token_embeddings(656)
    model.save_pretrained(copy.parent / "tied")
    assert "lm_head.weight" not in load_file(copy.parent / "tied" / "model.safetensors")
    loaded = AutoModelForImageTextToText.from_pretrained(copy.parent / "tied")
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_weights_from_memory(converted):
    tensors = load_file(converted / "model.safetensors")
    config = AutoModelForImageTextToText.from_pretrained(converted).config
    load = DeepseekVLForConditionalGeneration.from_pretrained
    model = load(None, config=config, state_dict=dict(tensors))
    assert torch.equal(model.lm_head.weight.float(), tensors["lm_head.weight"].float())
    del tensors["lm_head.weight"]
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the model \(lm_head.weight\)"):
        load(None, config=config, state_dict=tensors)


def test_buffers_of_old_files(copy):
    """Whole numbers that a model computes today are no weights."""
    positions = "model.vision_model.embeddings.position_ids"
    edit_shard(copy / "model.safetensors", lambda tensors: tensors.update({positions: torch.arange(576)[None]}))
    AutoModelForImageTextToText.from_pretrained(copy)


def test_other_files_of_a_folder(copy):
    """Only what is read is looked at: a variant, a subfolder, files of the other format."""
    (copy / "sub").mkdir()
    shutil.copy(copy / "model.safetensors", copy / "model.fp16.safetensors")
    for name in ("model.safetensors", "config.json"):
        shutil.copy(copy / name, copy / "sub" / name)
    (copy / "model.safetensors").write_bytes(b"broken")
    AutoModelForImageTextToText.from_pretrained(copy, variant="fp16")
    AutoModelForImageTextToText.from_pretrained(copy, subfolder="sub")
    torch.save(load_file(copy / "sub" / "model.safetensors"), copy / "pytorch_model.bin")
    AutoModelForImageTextToText.from_pretrained(copy, use_safetensors=False)
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read as safetensors"):
        AutoModelForImageTextToText.from_pretrained(copy)


def test_damage_in_a_variant(copy):
    """Found when transformers has said which files it reads."""
    tensors = load_file(copy / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].view(torch.int16)
    save_file(tensors, copy / "model.fp16.safetensors")
    with pytest.raises(ValueError, match=r"holds 'lm_head.weight' as torch.int16"):
        AutoModelForImageTextToText.from_pretrained(copy, variant="fp16", dtype=torch.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "generation_config.json holds a JSON list; expected an object"),
        ('{"max_new_tokens": "x"}', "generation_config.json has max_new_tokens 'x'; expected a whole number"),
        ("{", "generation_config.json is not valid JSON"),
    ],
)
def test_damaged_generation_settings(copy, content, message):
    (copy / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        AutoModelForImageTextToText.from_pretrained(copy)
