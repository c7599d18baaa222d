"""What damaged, foreign and hostile checkpoints lead to: an error that says what to do, and no destination."""

import json
from pathlib import Path

import pytest
import torch
from editing import INDEX, SHARDS, change_all, content_of, edit, edit_shard, remove_weights, tensors_of

from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.checkpoints.tensors import writer

NORM = "language_model.model.norm.weight"


def unknown_tensor(source):
    edit_shard(source / SHARDS[0], lambda tensors: tensors.update(extra=torch.zeros(1)))
    edit(source / INDEX, lambda index: index["weight_map"].update(extra=SHARDS[0]))


def missing_tensor(source):
    edit_shard(source / SHARDS[1], lambda tensors: tensors.pop(NORM))
    edit(source / INDEX, lambda index: index["weight_map"].pop(NORM))


def tensor_in_two_shards(source):
    edit_shard(source / SHARDS[0], lambda tensors: tensors.update({NORM: torch.zeros(64, dtype=torch.float16)}))


def wrong_shape(source):
    edit_shard(source / SHARDS[0], lambda tensors: tensors.update({"aligner.layers.2.weight": torch.zeros(3, 3)}))


def qkv_that_cannot_be_cut(source):
    name = "vision_model.vision_tower.blocks.0.attn.qkv.bias"
    edit_shard(source / SHARDS[0], lambda tensors: tensors.update({name: torch.zeros(95)}))


def truncate(num_bytes):
    def change(source):
        data = (source / SHARDS[0]).read_bytes()
        (source / SHARDS[0]).write_bytes(data[:num_bytes] if num_bytes > 0 else data[: len(data) + num_bytes])

    return change


def appended_bytes(source):
    with (source / SHARDS[0]).open("ab") as file:
        file.write(b"more")


def edit_header(change):
    """Changes the header of a weight file and leaves its data."""

    def damage(source):
        path = source / SHARDS[1]
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = change(data[8:end].decode()).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])

    return damage


def same_name_twice(header):
    first = next(name for name in json.loads(header) if name != "__metadata__")
    entry = json.dumps(json.loads(header)[first])
    return header.rstrip()[:-1] + f",{json.dumps(first)}:{entry}}}"


def with_entry(**fields):
    def change(header):
        content = json.loads(header)
        content[NORM].update(fields)
        return json.dumps(content)

    return edit_header(change)


def in_index(name, shard):
    return lambda source: edit(source / INDEX, lambda index: index["weight_map"].update({name: shard}))


def name_twice_in_index(source):
    text = (source / INDEX).read_text()
    (source / INDEX).write_text(text.replace('"weight_map": {', f'"weight_map": {{"{NORM}": "{SHARDS[1]}",', 1))


def in_config(change):
    return lambda source: edit(source / "config.json", change)


def in_file(name, **values):
    return lambda source: edit(source / name, lambda content: content.update(values))


def remove(name):
    return lambda source: (source / name).unlink()


def no_bos(source):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit(source / name, lambda content: content.pop("bos_token"))


def token_with_another_id(source):
    edit(source / "tokenizer_config.json", lambda c: c.update(added_tokens_decoder={"5": {"content": "<new>"}}))


def more_tokens_than_the_model_has(source):
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    first = max(token["id"] for token in tokenizer["added_tokens"]) + 1
    added = {str(first + number): {"content": f"<new {number}>"} for number in range(40)}
    edit(source / "tokenizer_config.json", lambda content: content.update(added_tokens_decoder=added))


class RunsCode:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def pickle_that_runs_code(source):
    remove_weights(source)
    torch.save({"weight": RunsCode(source.parent / "code ran")}, source / "pytorch_model.bin")


def pickle_of_something_else(source):
    remove_weights(source)
    torch.save({"epoch": 3, "weight": torch.zeros(1)}, source / "pytorch_model.bin")


def janus(config):
    config.update(gen_vision_config={"cls": "vq_model"}, gen_head_config={"cls": "vision_head"})


DAMAGED = {
    "unknown tensor": (unknown_tensor, ValueError, "0 rules speak of the tensor 'extra'"),
    "missing tensor": (
        missing_tensor,
        ValueError,
        r"1 tensors do not fit(.|\n)*model.language_model.norm.weight: missing",
    ),
    "tensor in two shards": (tensor_in_two_shards, ValueError, f"disagree on 1 tensors, such as '{NORM}'"),
    "tensor twice in a file": (edit_header(same_name_twice), ValueError, "holds the tensor .* twice"),
    "tensor twice in the index": (name_twice_in_index, ValueError, f"{INDEX} names '{NORM}' twice"),
    "wrong shape": (wrong_shape, ValueError, r"aligner.linear2.weight: shape \[3, 3\], expected \[64, 64\]"),
    "uneven split": (qkv_that_cannot_be_cut, ValueError, r"first dimension divisible by 3, found the shape \[95\]"),
    "half a shard": (truncate(100_000), ValueError, f"{SHARDS[0]} cannot be read .*its header describes"),
    "shard without its last byte": (truncate(-1), ValueError, f"{SHARDS[0]} cannot be read .*its header describes"),
    "shard within its header": (truncate(50), ValueError, f"{SHARDS[0]} cannot be read .*beyond the file"),
    "empty shard": (lambda source: (source / SHARDS[0]).write_bytes(b""), ValueError, f"{SHARDS[0]} ended while"),
    "bytes after the tensors": (appended_bytes, ValueError, "cannot be read as safetensors .*its header describes"),
    "header that is no JSON": (
        edit_header(lambda header: header.rstrip()[:-5]),
        ValueError,
        "cannot be read as safetensors",
    ),
    "unknown type": (with_entry(dtype="F12"), ValueError, f"'{NORM}' has the type 'F12'"),
    "size against the shape": (with_entry(shape=[63]), ValueError, f"'{NORM}' has 128 bytes; its shape needs 126"),
    "overlap": (with_entry(data_offsets=[0, 128]), ValueError, "begins at byte"),
    "shard of another checkpoint": (in_index("ghost", SHARDS[0]), ValueError, "disagree on 1 tensors, such as 'ghost'"),
    "path in the index": (in_index("ghost", "../x.safetensors"), ValueError, "expected a file name without a path"),
    "number in the index": (in_index("ghost", 3), ValueError, "expected a file name without a path"),
    "missing shard": (remove(SHARDS[1]), FileNotFoundError, f"names {SHARDS[1]}, absent"),
    "no weights": (remove_weights, FileNotFoundError, "holds no weights. Expected one of model.safetensors"),
    "no config": (remove("config.json"), FileNotFoundError, "holds no config.json"),
    "no tokenizer": (remove("tokenizer.json"), FileNotFoundError, "holds no tokenizer.json"),
    "no image settings": (remove("preprocessor_config.json"), FileNotFoundError, "holds no preprocessor_config.json"),
    "no BOS": (no_bos, ValueError, "The bos_token None is not in the vocabulary"),
    "token with another id": (token_with_another_id, ValueError, "gives '<new>' the id 5, but in tokenizer.json"),
    "tokens beyond the model": (more_tokens_than_the_model_has, ValueError, "the model's vocabulary holds 640"),
    "another model": (
        in_config(lambda config: config.update(model_type="llama")),
        ValueError,
        "model_type 'llama' (.|\n)*Expected an original checkpoint of DeepSeek-VL with one",
    ),
    "Janus": (in_config(janus), ValueError, "is of Janus: it has the sections gen_head_config, gen_vision_config"),
    "another tower": (
        in_config(lambda config: config["vision_config"].update(cls="ResNet")),
        ValueError,
        r"vision class 'ResNet'\. Expected an original",
    ),
    "the other family's tower": (
        in_config(lambda config: config["vision_config"].update(cls="HybridVisionTower")),
        ValueError,
        "config.json has no vision_config.params.low_res_cfg",
    ),
    "an unknown type": (
        in_config(lambda config: config["language_config"].update(torch_dtype="float12")),
        ValueError,
        "torch_dtype is 'float12'; expected a type of torch",
    ),
    "broken JSON": (lambda source: (source / "config.json").write_text("{"), ValueError, "config.json is not valid"),
    "JSON list": (lambda source: (source / "config.json").write_text("[]"), ValueError, "list; expected an object"),
    "image size": (
        in_file("preprocessor_config.json", image_size=336),
        ValueError,
        "preprocessor_config.json has image_size 336, but config.json's tower reads 384",
    ),
    "normalized twice": (in_file("preprocessor_config.json", do_normalize=True), ValueError, "do_normalize is True"),
    "another chat format": (in_file("processor_config.json", sft_format="plain"), ValueError, "sft_format is 'plain'"),
    "number of image tokens": (
        in_file("processor_config.json", num_image_tokens=100),
        ValueError,
        "num_image_tokens is 100; expected 576",
    ),
    "weights of integers": (
        lambda source: change_all(source, lambda name, tensor: tensor.to(torch.int8) if name == NORM else tensor),
        ValueError,
        "model.language_model.norm.weight: type torch.int8, expected numbers",
    ),
    "one file and an index": (
        lambda source: (source / "model.safetensors").write_bytes((source / SHARDS[0]).read_bytes()),
        ValueError,
        "holds both model.safetensors and model.safetensors.index.json",
    ),
    "EOS after prompts": (in_file("tokenizer_config.json", add_eos_token=True), ValueError, "add_eos_token is True"),
    "text for a number": (
        in_config(lambda config: config["language_config"].update(hidden_size="x")),
        ValueError,
        "text_config cannot be read .*'hidden_size' expected int, got str",
    ),
    "null for a section": (
        in_config(lambda config: config["vision_config"].update(params=None)),
        ValueError,
        "config.json holds a value of another kind",
    ),
    "null for a number": (
        in_config(lambda config: config["language_config"].update(max_position_embeddings=None)),
        ValueError,
        "holds a value of another kind",
    ),
    "list for a name": (
        in_config(lambda config: config["vision_config"]["params"].update(model_name=[])),
        ValueError,
        "config.json holds a value of another kind",
    ),
    "a type that torch lacks": (
        in_config(lambda config: config.update(torch_dtype="x")),
        ValueError,
        "torch_dtype is 'x'; expected a type of torch",
    ),
    "deviation of zero": (
        in_config(lambda config: config["vision_config"]["params"].update(pixel_std=[0.5, 0, 0.5])),
        ValueError,
        "pixel_std is .*; expected positive numbers",
    ),
    "one mean for three channels": (
        in_config(lambda config: config["vision_config"]["params"].update(pixel_mean=[0.5])),
        ValueError,
        "pixel_mean is .*; expected three numbers",
    ),
    "text for an edge": (in_file("preprocessor_config.json", min_size="14"), ValueError, "min_size '14'; expected"),
    "no projector": (
        in_config(lambda config: config["aligner_config"].update(params={})),
        ValueError,
        "config.json has no aligner_config.params.projector_type",
    ),
    "JSON without an end": (
        lambda source: (source / "config.json").write_text("[" * 100_000),
        ValueError,
        "config.json is not valid",
    ),
    "shape of fractions": (with_entry(shape=[64.0]), ValueError, f"'{NORM}' has a size or a place"),
    "pickle that runs code": (pickle_that_runs_code, ValueError, "cannot be read as tensors and nothing else"),
    "pickle of something else": (pickle_of_something_else, ValueError, "something else than named, dense tensors"),
    "broken pickle": (
        lambda source: (remove_weights(source), (source / "pytorch_model.bin").write_bytes(b"PK\x03\x04 no")),
        ValueError,
        "cannot be read as tensors and nothing else",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_sources_leave_nothing_behind(source, tmp_path, name):
    damage, error, message = DAMAGED[name]
    damage(source)
    before = content_of(source)
    with pytest.raises(error, match=message):
        convert_checkpoint(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert content_of(source) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(source, tmp_path, value):
    def damage(name, tensor):
        if name == NORM:
            tensor[7] = value
        return tensor

    change_all(source, damage)
    with pytest.raises(ValueError, match=f"1 values in 1 tensors are NaN or infinite, such as '{NORM}'"):
        convert_checkpoint(source, tmp_path / "target", verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    lines = []
    result = convert_checkpoint(source, tmp_path / "target", report=lines.append)
    assert result.not_finite == {NORM: 1}
    assert f"  {NORM}: 1" in lines
    other = convert_checkpoint(source, tmp_path / "other", dtype=torch.float32)
    assert other.not_finite == {NORM: 1}
    assert tensors_of(tmp_path / "target")["model.language_model.norm.weight"].isfinite().sum() == 63


def test_values_too_large_for_the_type(source, tmp_path):
    change_all(source, lambda name, tensor: tensor.float() * 1e6 if name == NORM else tensor.float())
    with pytest.raises(ValueError, match=rf"'{NORM}' has values that are too large for torch.float16 \(up to"):
        convert_checkpoint(source, tmp_path / "target", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_verification_sees_a_changed_byte(original, tmp_path, monkeypatch):
    """Guards the verification: it must not pass because it compares nothing."""
    write = writer.write_tensors

    def write_and_damage(tensors, folder, *arguments):
        write(tensors, folder, *arguments)
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr("deepseek_vl_hf.checkpoints.conversion.convert.write_tensors", write_and_damage)
    with pytest.raises(ValueError, match="differs from what was written for it"):
        convert_checkpoint(original, tmp_path / "target", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_source_that_is_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        convert_checkpoint(tmp_path / "nothing", tmp_path / "target")


def test_unknown_layout(original, tmp_path):
    with pytest.raises(ValueError, match="Found the layout 'gguf'; expected 'transformers' or 'original'"):
        convert_checkpoint(original, tmp_path / "target", to="gguf")
