"""Checkpoints that are not the published ones: pickles, fine-tunes, the layout that needs no conversion."""

import json

import pytest
import torch
from editing import change_all, content_of, edit, remove_weights, tensors_of
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from deepseek_vl_hf.checkpoints import NothingToConvertError, convert_checkpoint
from family import VL_FAMILIES
from forked import python

EMBEDDINGS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")


def save_pickles(folder, tensors, **options):
    torch.save(tensors, folder / "pytorch_model.bin", **options)


def save_sharded_pickles(folder, tensors):
    names = sorted(tensors)
    halves = {"pytorch_model-00001-of-00002.bin": names[:30], "pytorch_model-00002-of-00002.bin": names[30:]}
    for file, part in halves.items():
        torch.save({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize(
    "save",
    [
        save_pickles,
        lambda folder, tensors: save_pickles(folder, tensors, _use_new_zipfile_serialization=False),
        save_sharded_pickles,
        # A view, and one that is not contiguous: their bytes lie elsewhere in the file.
        lambda folder, tensors: save_pickles(
            folder, {name: torch.stack([tensor, tensor], -1)[..., 0] for name, tensor in tensors.items()}
        ),
    ],
    ids=["zip", "before zip", "sharded", "strided"],
)
def test_pickles(source, converted, tmp_path, save):
    tensors = tensors_of(source)
    remove_weights(source)
    save(source, tensors)
    convert_checkpoint(source, tmp_path / "target")
    found, expected = tensors_of(tmp_path / "target"), tensors_of(converted)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_of_another_type_than_the_config_says(source, tmp_path, dtype):
    change_all(source, lambda name, tensor: tensor.to(dtype))
    lines = []
    convert_checkpoint(source, tmp_path / "target", report=lines.append)
    name = str(dtype).removeprefix("torch.")
    assert f"Note: The weights are stored as {name}, though config.json says float16" in lines
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "target").values()} == {dtype}
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "target", dtype="auto").dtype == dtype


def test_mixed_types_keep_theirs(source, tmp_path):
    change_all(source, lambda name, tensor: tensor.float() if "norm" in name else tensor)
    convert_checkpoint(source, tmp_path / "target", verify=True)
    found = {name: tensor.dtype for name, tensor in tensors_of(tmp_path / "target").items()}
    assert set(found.values()) == {torch.float16, torch.float32}
    assert found["model.language_model.norm.weight"] == torch.float32


def test_a_resized_vocabulary(source, tmp_path):
    """More rows than tokens, as fine-tunes pad them."""

    def resize(name, tensor):
        return torch.cat([tensor, torch.zeros(64, 64, dtype=tensor.dtype)]) if name in EMBEDDINGS else tensor

    change_all(source, resize)
    edit(source / "config.json", lambda config: config["language_config"].update(vocab_size=704))
    convert_checkpoint(source, tmp_path / "target", verify=True)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "target")
    assert model.lm_head.weight.shape == (704, 64)


def test_extra_tokens(source, tmp_path):
    """Tokens that only tokenizer_config.json names get the ids that it gives, direct and converted."""
    first = max(token["id"] for token in json.loads((source / "tokenizer.json").read_text())["added_tokens"]) + 1
    added = {str(first): {"content": "<box>", "special": True}, str(first + 1): {"content": "<point>"}}
    edit(source / "tokenizer_config.json", lambda content: content.update(added_tokens_decoder=added))
    convert_checkpoint(source, tmp_path / "target", verify=True)
    for folder in (source, tmp_path / "target"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer("<box><point>")["input_ids"]
        assert ids[1:] == [first, first + 1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == "<point>"


def test_the_transformers_layout_needs_nothing(converted, tmp_path):
    with pytest.raises(NothingToConvertError, match=r"in the transformers layout already .*nothing to convert"):
        convert_checkpoint(converted, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_the_original_layout_needs_nothing_on_the_way_back(original, tmp_path):
    with pytest.raises(NothingToConvertError, match="in the original layout already"):
        convert_checkpoint(original, tmp_path / "target", to="original")


def test_another_model_on_the_way_back(converted, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(
        ValueError,
        match="model_type 'llava'; expected deepseek_ocr or deepseek_vl or deepseek_vl2 or deepseek_vl_hybrid",
    ):
        convert_checkpoint(tmp_path / "source", tmp_path / "target", to="original")


def copy_with(folder, tmp_path, rename=lambda name: name):
    """A copy of a converted checkpoint, its tensors under other names."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name, content in content_of(folder).items():
        (copy / name).write_bytes(content)
    tensors = {rename(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_the_published_names_of_the_transformers_layout_go_back(family, restored, tmp_path):
    copy = copy_with(
        family.converted, tmp_path, lambda name: name.replace("model.vision_model.", "model.vision_model.vision_model.")
    )
    convert_checkpoint(copy, tmp_path / "target", to="original")
    found, expected = tensors_of(tmp_path / "target"), tensors_of(restored[family.name])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


SAVED_BY_TRANSFORMERS = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
source, target = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto")
assert type(model).__module__.startswith("transformers.")
model.save_pretrained(target)
AutoProcessor.from_pretrained(source).save_pretrained(target)
"""


@pytest.mark.parametrize("family", VL_FAMILIES, indirect=True, scope="module")
def test_what_plain_transformers_saved_goes_back(family, restored, tmp_path):
    result = python("-c", SAVED_BY_TRANSFORMERS, family.converted, tmp_path / "saved")
    assert result.returncode == 0, result.stderr
    convert_checkpoint(tmp_path / "saved", tmp_path / "target", to="original", verify=True)
    found, expected = tensors_of(tmp_path / "target"), tensors_of(restored[family.name])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        assert json.loads((tmp_path / "target" / name).read_text()) == json.loads(
            (restored[family.name] / name).read_text()
        )


@pytest.mark.parametrize(
    ("file", "section", "values", "message"),
    [
        (
            "config.json",
            "vision_config",
            {"hidden_act": "gelu_pytorch_tanh"},
            "config.json cannot say: vision_config.hidden_act 'gelu_pytorch_tanh'",
        ),
        ("processor_config.json", "image_processor", {"do_resize": False}, "cannot say: do_resize False"),
    ],
)
def test_what_the_original_cannot_say_is_refused(converted, tmp_path, file, section, values, message):
    copy = copy_with(converted, tmp_path)
    edit(copy / file, lambda content: content[section].update(values))
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(copy, tmp_path / "target", to="original")
    assert not (tmp_path / "target").exists()


def test_settings_of_the_processor_go_there_and_back(converted, tmp_path):
    copy = copy_with(converted, tmp_path)
    color = {"background_color": [1, 2, 3], "min_size": 28, "image_mean": [0.4, 0.5, 0.6]}
    edit(copy / "processor_config.json", lambda content: content["image_processor"].update(color))
    convert_checkpoint(copy, tmp_path / "original", to="original")
    convert_checkpoint(tmp_path / "original", tmp_path / "again")
    images = AutoProcessor.from_pretrained(tmp_path / "again").image_processor
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in color.items()} == {
        "background_color": list(images.background_color),
        "min_size": images.min_size,
        "image_mean": list(images.image_mean),
    }


def test_two_names_of_one_tensor_on_the_way_back(converted, tmp_path):
    copy = copy_with(converted, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    name = "post_layernorm.weight"
    tensors[f"model.vision_model.vision_model.{name}"] = tensors[f"model.vision_model.{name}"] + 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{name}', which are two names of one tensor"):
        convert_checkpoint(copy, tmp_path / "target", to="original")


def test_generation_settings_are_kept_there_and_back(source, tmp_path):
    settings = {"do_sample": True, "temperature": 0.3, "eos_token_id": [601, 5], "max_new_tokens": 77}
    (source / "generation_config.json").write_text(json.dumps(settings))
    convert_checkpoint(source, tmp_path / "there")
    convert_checkpoint(tmp_path / "there", tmp_path / "back", to="original")
    for folder in (source, tmp_path / "there", tmp_path / "back"):
        found = AutoModelForImageTextToText.from_pretrained(folder).generation_config
        assert {name: getattr(found, name) for name in settings} == settings
        assert found.pad_token_id == 601


def test_a_tokenizer_without_bos_there_and_back(source, tmp_path):
    edit(source / "tokenizer_config.json", lambda content: content.update(add_bos_token=False))
    convert_checkpoint(source, tmp_path / "there")
    convert_checkpoint(tmp_path / "there", tmp_path / "back", to="original")
    ids = [AutoTokenizer.from_pretrained(folder)("a")["input_ids"] for folder in (source, *tmp_path.glob("*ck"))]
    assert ids == [[64], [64]]
    assert AutoTokenizer.from_pretrained(tmp_path / "there")("a")["input_ids"] == [64]


def test_what_the_way_back_loses_is_said(converted, tmp_path):
    copy = copy_with(converted, tmp_path)
    (copy / "chat_template.jinja").write_text("{{ 1 }}")
    edit(copy / "tokenizer_config.json", lambda content: content.update(padding_side="right"))
    lines = []
    convert_checkpoint(copy, tmp_path / "target", to="original", report=lines.append)
    assert "Note: The chat template is not the original's, which has no place for another" in lines
    assert "Note: The original pads on the left, not on the right" in lines


def test_what_is_left_behind_is_said(source, tmp_path):
    (source / "LICENSE").write_text("text")
    (source / "pytorch_model.bin").write_bytes(b"not read")
    edit(source / "tokenizer_config.json", lambda content: content.update(chat_template="{{ 1 }}"))
    lines = []
    convert_checkpoint(source, tmp_path / "target", report=lines.append)
    assert "Note: Left behind: LICENSE, pytorch_model.bin" in lines
    assert "Note: Nothing reads tokenizer_config.json: chat_template" in lines


def test_the_paddings_color_follows_the_mean(source, tmp_path):
    """As in the original, where no color is stored."""

    def change(content):
        content.pop("background_color")
        content["image_mean"] = [0.1, 0.2, 0.3]

    edit(source / "preprocessor_config.json", change)
    assert list(AutoImageProcessor.from_pretrained(source).background_color) == [25, 51, 76]


def test_positions_that_the_file_does_not_name(source):
    edit(source / "config.json", lambda config: config["language_config"].pop("max_position_embeddings"))
    edit(source / "tokenizer_config.json", lambda content: content.update(model_max_length=None))
    assert AutoConfig.from_pretrained(source).text_config.max_position_embeddings == 2048
    assert AutoTokenizer.from_pretrained(source).model_max_length == 2048
