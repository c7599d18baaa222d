"""Damaged small files of the transformers layout: loading and converting name the file and say what to do."""

import json

import pytest
from editing import edit
from transformers import AutoConfig, AutoProcessor

from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.checkpoints.layouts.small_files import open_processor


def text(content, encoding="utf-8"):
    return lambda path: path.write_text(content, encoding=encoding)


def cut(path):
    path.write_text(path.read_text(encoding="utf-8")[:500], encoding="utf-8")


def fields(*keys, **values):
    def change(content):
        for key in keys:
            content = content[key]
        content.update(values)

    return lambda path: edit(path, change)


def two_tokens_with_one_id(content):
    content["model"]["vocab"]["*"] = 2


DAMAGED = {
    "vocabulary cut": ("tokenizer.json", cut, "tokenizer.json is not valid JSON"),
    "vocabulary empty": ("tokenizer.json", text(""), "tokenizer.json is not valid JSON"),
    "vocabulary as UTF-16": ("tokenizer.json", text("{}", "utf-16"), "tokenizer.json is not valid JSON"),
    "vocabulary of another kind": ("tokenizer.json", fields(version=None), "tokenizer.json cannot be read as a token"),
    "two tokens with one id": (
        "tokenizer.json",
        lambda path: edit(path, two_tokens_with_one_id),
        r"gives the id \d+ to '.*', '.*'\. tokenizer.json is damaged",
    ),
    "tokenizer settings cut": ("tokenizer_config.json", text("{"), "tokenizer_config.json is not valid JSON"),
    "class that is a number": ("tokenizer_config.json", fields(tokenizer_class=2), "tokenizer_class 2; expected the n"),
    "length in words": ("tokenizer_config.json", fields(model_max_length="x"), "model_max_length 'x'; expected a posi"),
    "padding in the middle": (
        "tokenizer_config.json",
        fields(padding_side="top"),
        "padding_side 'top'; expected 'left'",
    ),
    "token that is a list": ("tokenizer_config.json", fields(bos_token=[1]), r"bos_token \[1\]; expected a token's"),
    "template as UTF-16": ("chat_template.jinja", text("{{ 1 }}", "utf-16"), "chat_template.jinja is not UTF-8 text"),
    "two deviations": (
        "processor_config.json",
        fields("image_processor", image_std=[0.5, 0.5]),
        r"image_std \(0.5, 0.5\)|image_std \[0.5, 0.5\]",
    ),
    "images that are a number": ("processor_config.json", fields(image_processor=float("nan")), "cannot be read"),
    "no object": ("processor_config.json", text("1"), "processor_config.json holds a JSON int; expected an object"),
}


@pytest.fixture
def converted(families):
    return families["vl"].converted


@pytest.fixture
def copy(converted, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in converted.iterdir():
        target = folder / path.name
        target.symlink_to(path) if path.suffix == ".safetensors" else target.write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("kind", DAMAGED)
def test_processors_files(copy, kind):
    name, damage, message = DAMAGED[kind]
    damage(copy / name)
    with pytest.raises(ValueError, match=message):
        open_processor(copy)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(copy, copy.parent / "target", to="original")
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (fields(id2label=[[1]]), r"config.json has id2label \[\[1\]\]; expected texts by number"),
        (fields("text_config", id2label={"x": 1}), "text_config has id2label .*; expected texts by number"),
        (fields(tie_word_embeddings={}), "config.json cannot be read .*'tie_word_embeddings' expected bool"),
        (fields("text_config", dtype=1e300), r"config.json cannot be read \(list index"),
        (fields("text_config", "rope_parameters", rope_theta=[None]), r"rope_theta \[None\] in its rope_parameters"),
        (fields("text_config", "rope_parameters", rope_theta=True), "rope_theta True in its rope_parameters"),
    ],
)
def test_configs(copy, damage, message):
    damage(copy / "config.json")
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(copy)


def test_a_class_that_does_not_exist(copy):
    """AutoProcessor gives the tokenizer alone then, which knows nothing of pictures; a conversion needs them."""
    edit(copy / "processor_config.json", lambda content: content.update(processor_class="Lost"))
    with pytest.raises(ValueError, match=r"and no processor\. Look at the processor_class in processor_config"):
        convert_checkpoint(copy, copy.parent / "target", to="original")


def test_a_mark_in_front_of_the_template(converted, copy):
    """Some editors put a byte order mark there; it is no part of the prompt."""
    path = copy / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    conversation = [{"role": "user", "content": json.dumps("Hello")}]
    found, expected = (
        AutoProcessor.from_pretrained(folder).apply_chat_template(conversation, tokenize=True).tolist()
        for folder in (copy, converted)
    )
    assert found == expected
