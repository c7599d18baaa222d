"""Converting a checkpoint folder: what is written, and what damaged input leads to."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig

from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.checkpoints.source import iterate_tensors

SCRIPT = Path(__file__).parents[2] / "convert" / "convert_deepseek_vl.py"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def source(original, tmp_path):
    """A copy of the original checkpoint that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "source"))


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_shard(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_tensors_are_taken_over_bit_for_bit(original, converted):
    source, target = dict(iterate_tensors(original)), load_file(converted / "model.safetensors")
    qkv = source["vision_model.vision_tower.blocks.1.attn.qkv.weight"]
    attention = "model.vision_model.encoder.layers.1.self_attn."
    assert torch.equal(torch.cat([target[f"{attention}{part}_proj.weight"] for part in "qkv"]), qkv)
    assert torch.equal(target["lm_head.weight"], source["language_model.lm_head.weight"])
    positions = source["vision_model.vision_tower.pos_embed"][0]
    assert torch.equal(target["model.vision_model.embeddings.position_embedding.weight"], positions)
    assert {tensor.dtype for tensor in target.values()} == {torch.float16}


def test_hybrid_tensors_are_taken_over_bit_for_bit(hybrid):
    source, target = dict(iterate_tensors(hybrid.original)), load_file(hybrid.converted / "model.safetensors")
    sam, encoder = "vision_model.vision_tower_high.vision_tower.", "model.high_res_vision_model.vision_encoder."
    for original, name in (
        (f"{sam}blocks.3.attn.rel_pos_w", f"{encoder}layers.3.attn.rel_pos_w"),
        (f"{sam}neck.2.weight", f"{encoder}neck.conv2.weight"),
        (f"{sam}neck_hd.1.bias", "model.high_res_vision_neck.layer_norm1.bias"),
        (f"{sam}downsamples.1.weight", "model.high_res_vision_proj.conv2.weight"),
        (f"{sam}hd_alpha_downsamples", "model.high_res_vision_alpha"),
        ("aligner.high_up_proj.weight", "model.aligner.high_res_vision_proj.weight"),
        ("aligner.low_up_proj.weight", "model.aligner.vision_proj.weight"),
    ):
        assert torch.equal(source[original], target[name]), name


def test_files(family):
    assert {path.name for path in family.converted.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    modes = {path.stat().st_mode for path in family.converted.iterdir()}
    assert len(modes) == 1


def test_ids_come_from_the_tokenizer(family):
    generation = GenerationConfig.from_pretrained(family.converted)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (600, 601, 601)
    config = json.loads((family.converted / "config.json").read_text())
    assert config["image_token_id"] == 602
    assert (config["text_config"]["bos_token_id"], config["text_config"]["eos_token_id"]) == (600, 601)
    assert config["dtype"] == "float16"
    assert config["architectures"] == [type(family.model).__name__]


def test_tokenizer(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer("a b")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer("a", "b")["input_ids"].count(tokenizer.bos_token_id) == 2
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 16384)
    assert tokenizer.image_token == "<image_placeholder>"
    assert set(tokenizer("a")) == {"input_ids", "attention_mask"}


def test_a_stored_bos_template_is_not_doubled(source, tmp_path):
    def add_template(content):
        token = "<｜begin▁of▁sentence｜>"
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [600], "tokens": [token]}},
        }

    edit(source / "tokenizer.json", add_template)
    convert_checkpoint(source, tmp_path / "target", report=lambda line: None)
    assert AutoTokenizer.from_pretrained(tmp_path / "target")("a")["input_ids"].count(600) == 1


def test_a_single_unsharded_file(source, converted, tmp_path):
    save_file(dict(iterate_tensors(source)), source / "model.safetensors")
    for name in (*SHARDS, "model.safetensors.index.json"):
        (source / name).unlink()
    convert_checkpoint(source, tmp_path / "target", report=lambda line: None)
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "target", converted))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_report_says_what_happened(original, tmp_path):
    lines = []
    convert_checkpoint(original, tmp_path / "target", report=lines.append)
    assert lines == [
        "Found deepseek_vl: 2 vision layers, 2 text layers",
        "Converted 62 tensors",
        "Dropped 13 tensors: the pooling head is stored but never used; the model reads all patches",
        f"Wrote {tmp_path / 'target'}",
    ]


def test_an_empty_folder_may_be_the_destination(original, tmp_path):
    (tmp_path / "target").mkdir()
    convert_checkpoint(original, tmp_path / "target", report=lambda line: None)
    assert (tmp_path / "target" / "config.json").is_file()


def test_the_script(original, tmp_path):
    command = [sys.executable, SCRIPT, original, tmp_path / "target"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Converted 62 tensors" in result.stdout
    assert (tmp_path / "target" / "model.safetensors").is_file()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("error: ")
    assert "exists and is not empty" in again.stderr


def unknown_tensor(source):
    edit_shard(source / SHARDS[0], lambda tensors: tensors.update(extra=torch.zeros(1)))
    edit(source / "model.safetensors.index.json", lambda index: index["weight_map"].update(extra=SHARDS[0]))


def missing_tensor(source):
    name = "language_model.model.norm.weight"
    edit_shard(source / SHARDS[1], lambda tensors: tensors.pop(name))
    edit(source / "model.safetensors.index.json", lambda index: index["weight_map"].pop(name))


def wrong_shape(source):
    name = "aligner.layers.2.weight"
    edit_shard(source / SHARDS[0], lambda tensors: tensors.update({name: torch.zeros(3, 3)}))


def truncated_shard(source):
    data = (source / SHARDS[0]).read_bytes()
    (source / SHARDS[0]).write_bytes(data[: len(data) // 2])


def index_of_another_checkpoint(source):
    edit(source / "model.safetensors.index.json", lambda index: index["weight_map"].update(ghost=SHARDS[0]))


def path_in_the_index(source):
    edit(
        source / "model.safetensors.index.json", lambda index: index["weight_map"].update(ghost="../ghost.safetensors")
    )


def set_model_type(value):
    return lambda source: edit(source / "config.json", lambda config: config.update(model_type=value))


def set_vision_class(value):
    return lambda source: edit(source / "config.json", lambda config: config["vision_config"].update(cls=value))


def remove(name):
    return lambda source: (source / name).unlink()


def no_bos(source):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit(source / name, lambda content: content.pop("bos_token"))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (unknown_tensor, ValueError, "0 rules speak of the tensor 'extra'"),
        (missing_tensor, ValueError, r"1 tensors do not fit(.|\n)*model.language_model.norm.weight: missing"),
        (wrong_shape, ValueError, r"aligner.linear2.weight: shape \[3, 3\], expected \[64, 64\]"),
        (truncated_shard, ValueError, "model-00001-of-00002.safetensors cannot be read as safetensors"),
        (index_of_another_checkpoint, ValueError, "disagree on 1 tensors, such as 'ghost'"),
        (path_in_the_index, ValueError, "expected a file name without a path"),
        (remove(SHARDS[1]), FileNotFoundError, f"names {SHARDS[1]}, absent"),
        (remove("config.json"), FileNotFoundError, "holds no config.json"),
        (remove("tokenizer.json"), FileNotFoundError, "holds no tokenizer.json"),
        (remove("preprocessor_config.json"), FileNotFoundError, "holds no preprocessor_config.json"),
        (no_bos, ValueError, "The bos_token None is not in the vocabulary"),
        (
            set_model_type("llama"),
            ValueError,
            "model_type 'llama' (.|\n)*Expected an original checkpoint of DeepSeek-VL with one",
        ),
        (set_vision_class("ResNet"), ValueError, r"vision class 'ResNet'\. Expected an original"),
        (set_vision_class("HybridVisionTower"), ValueError, "config.json has no vision_config.params.low_res_cfg"),
        (lambda source: (source / "config.json").write_text("{"), ValueError, "config.json is not valid JSON"),
        (lambda source: (source / "config.json").write_text("[]"), ValueError, "holds a JSON list; expected an object"),
        (
            lambda source: edit(source / "preprocessor_config.json", lambda content: content.update(image_size=336)),
            ValueError,
            "preprocessor_config.json has image_size 336, but config.json's tower reads 384",
        ),
    ],
)
def test_damaged_sources_leave_nothing_behind(source, tmp_path, damage, error, message):
    damage(source)
    with pytest.raises(error, match=message):
        convert_checkpoint(source, tmp_path / "target", report=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_source_that_is_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        convert_checkpoint(tmp_path / "nothing", tmp_path / "target", report=print)


def test_destination_with_files(original, tmp_path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        convert_checkpoint(original, tmp_path, report=print)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
