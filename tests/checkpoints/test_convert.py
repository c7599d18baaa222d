"""Converting a checkpoint folder: what is written."""

import json
import re
from contextlib import contextmanager

import pytest
import torch
from editing import change_all, content_of, edit, remove_weights, tensors_of
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig

from deepseek_vl_hf.checkpoints import convert_checkpoint, describe_conversion
from family import VL2_FAMILIES, VL_FAMILIES


def test_tensors_are_taken_over_bit_for_bit(original, converted):
    source, target = tensors_of(original), load_file(converted / "model.safetensors")
    qkv = source["vision_model.vision_tower.blocks.1.attn.qkv.weight"]
    attention = "model.vision_model.encoder.layers.1.self_attn."
    assert torch.equal(torch.cat([target[f"{attention}{part}_proj.weight"] for part in "qkv"]), qkv)
    assert torch.equal(target["lm_head.weight"], source["language_model.lm_head.weight"])
    positions = source["vision_model.vision_tower.pos_embed"][0]
    assert torch.equal(target["model.vision_model.embeddings.position_embedding.weight"], positions)
    assert {tensor.dtype for tensor in target.values()} == {torch.float16}


def test_hybrid_tensors_are_taken_over_bit_for_bit(hybrid):
    source, target = tensors_of(hybrid.original), load_file(hybrid.converted / "model.safetensors")
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
        "README.md",
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
    pad, image = (602, 603) if family.has_experts else (601, 602)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (600, 601, pad)
    config = json.loads((family.converted / "config.json").read_text())
    assert config["image_token_id"] == image
    assert (config["text_config"]["bos_token_id"], config["text_config"]["eos_token_id"]) == (600, 601)
    assert config["dtype"] == str(family.dtype).removeprefix("torch.")
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
    convert_checkpoint(source, tmp_path / "target")
    assert AutoTokenizer.from_pretrained(tmp_path / "target")("a")["input_ids"].count(600) == 1


def test_a_single_unsharded_file(source, converted, tmp_path):
    change_all(source, lambda name, tensor: tensor)
    convert_checkpoint(source, tmp_path / "target")
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "target", converted))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_report_says_what_happened(original, tmp_path):
    lines = []
    result = convert_checkpoint(original, tmp_path / "target", report=lines.append)
    reason = "the pooling head is stored but never used; the model reads all patches"
    assert lines == [
        "Found deepseek_vl: 2 vision layers, 2 text layers",
        "67 tensors are read, 62 are written:",
        "  50 are copied, under the names of the other layout",
        "  4 hold queries, keys and values in one, and are cut into 12",
        f"  13 are left out: {reason}",
    ]
    assert (result.folder, result.tensors, result.dropped) == (tmp_path / "target", 62, {reason: 13})
    assert result.num_bytes == sum(tensor.nbytes for tensor in tensors_of(tmp_path / "target").values())


def test_an_empty_folder_may_be_the_destination(original, tmp_path):
    (tmp_path / "target").mkdir()
    convert_checkpoint(original, tmp_path / "target")
    assert (tmp_path / "target" / "config.json").is_file()


def test_progress_counts_every_byte(original, tmp_path):
    counted = {}

    @contextmanager
    def bar(label, total):
        counted[label] = [total, 0]
        yield lambda num_bytes: counted[label].__setitem__(1, counted[label][1] + num_bytes)

    convert_checkpoint(original, tmp_path / "target", verify=True, progress=bar)
    assert counted["Writing"][0] == counted["Writing"][1] > 500_000
    assert counted["Verifying"] == counted["Writing"]


@pytest.mark.parametrize("name", [*VL_FAMILIES, *VL2_FAMILIES])
def test_there_and_back_is_the_identity(families, restored, name):
    """Bit for bit on all that is not dropped; and the small files say the same."""
    family = families[name]
    source, back = tensors_of(family.original), tensors_of(restored[family.name])
    dropped = source.keys() - back.keys()
    assert all("attn_pool" in name or "_layer_norm" in name for name in dropped)
    assert len(dropped) == (17 if name == "vl_hybrid" else 13)
    assert back.keys() <= source.keys()
    assert all(torch.equal(back[key], source[key]) and back[key].dtype == source[key].dtype for key in back)
    images = () if family.has_experts else ("preprocessor_config.json",)
    for file in ("config.json", *images, "processor_config.json"):
        files = [json.loads((folder / file).read_text()) for folder in (family.original, restored[name])]
        assert set(flat(files[1]).items()) <= set(flat(files[0]).items())


def flat(content, prefix=""):
    """Dotted paths and values, as text."""
    found = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])
def test_types(original, converted, tmp_path, dtype):
    result = convert_checkpoint(original, tmp_path / "target", dtype=dtype, verify=True)
    found, expected = tensors_of(tmp_path / "target"), tensors_of(converted)
    assert all(torch.equal(found[name], expected[name].to(dtype or torch.float16)) for name in expected)
    name = str(dtype or torch.float16).removeprefix("torch.")
    assert json.loads((tmp_path / "target" / "config.json").read_text())["dtype"] == name
    assert result.verification["tensors"]["converted_to"] == (name if dtype else None)
    assert result.verification["models"]["tokens_equal"]
    assert result.verification["models"]["largest_logit_difference"] == 0


def test_shards(original, converted, tmp_path):
    convert_checkpoint(original, tmp_path / "target", max_shard_size="200KB", verify=True)
    index = json.loads((tmp_path / "target" / "model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "target").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files
    assert len(files) > 2
    assert max((tmp_path / "target" / name).stat().st_size for name in files) < 210_000
    found, expected = tensors_of(tmp_path / "target"), tensors_of(converted)
    assert found.keys() == expected.keys() == index["weight_map"].keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_overwrite_replaces_a_checkpoint_and_nothing_else(original, converted, tmp_path):
    target = tmp_path / "target"
    convert_checkpoint(original, target, dtype=torch.float32)
    (target / "left over.txt").write_text("of the old one")
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        convert_checkpoint(original, target)
    convert_checkpoint(original, target, overwrite=True)
    assert content_of(target).keys() == content_of(converted).keys()
    assert tensors_of(target)["lm_head.weight"].dtype == torch.float16
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_failed_overwrite_keeps_the_old_checkpoint(source, converted, tmp_path):
    target = tmp_path / "target"
    convert_checkpoint(source, target)
    before = content_of(target)
    change_all(source, lambda name, tensor: tensor[:1] if name.endswith("lm_head.weight") else tensor)
    with pytest.raises(ValueError, match="do not fit the model"):
        convert_checkpoint(source, target, overwrite=True)
    assert content_of(target) == before


def test_describing_writes_nothing(original, tmp_path):
    lines, before = [], content_of(original)
    describe_conversion(original, dtype=torch.bfloat16, report=lines.append)
    text = "\n".join(lines)
    weight = "vision_model.vision_tower.blocks.*.attn.qkv.weight"
    target = "model.vision_model.encoder.layers.*.self_attn.v_proj.weight"
    assert re.search(rf"^ +2  32 x 32 +bfloat16 +4\.1 kB  {re.escape(f'{weight} -> {target}')}$", text, re.MULTILINE)
    assert re.search(r"^ +1  32 +vision_model\.vision_tower\.attn_pool\.q\.bias -> left out$", text, re.MULTILINE)
    head, *rows = (line for line in lines if " -> " in line)
    assert {row.index("  vision_model.") for row in rows if "  vision_model." in row} == {head.index("  from")}
    assert sum(int(row.split()[0]) for row in rows) == 62 + 13
    assert lines[-1] == "62 tensors, 514.8 kB; nothing was written"
    assert content_of(original) == before
    assert list(tmp_path.iterdir()) == []


def test_the_source_is_not_touched(source, tmp_path):
    before = content_of(source)
    convert_checkpoint(source, tmp_path / "target", verify=True)
    assert content_of(source) == before


def test_keys_that_nothing_reads_are_reported(source, tmp_path):
    edit(source / "config.json", lambda config: config["vision_config"]["params"].update(tile_size=7))
    edit(source / "config.json", lambda config: config["language_config"].update(sliding_window=7))
    edit(source / "processor_config.json", lambda config: config.update(crop=True))
    lines = []
    convert_checkpoint(source, tmp_path / "target", report=lines.append)
    assert [line.removeprefix("Note: Nothing reads ") for line in lines if line.startswith("Note: ")] == [
        "config.json: vision_config.params.tile_size",
        "config.json: language_config.sliding_window",
        "processor_config.json: crop",
    ]


def test_tied_weights(source, tmp_path):
    """A fine-tune with one matrix for both ends stores it once."""
    edit(source / "config.json", lambda config: config["language_config"].update(tie_word_embeddings=True))
    tensors = tensors_of(source)
    tensors.pop("language_model.lm_head.weight")
    remove_weights(source)
    save_file(tensors, source / "model.safetensors")
    result = convert_checkpoint(source, tmp_path / "target", verify=True)
    assert result.verification["models"]["largest_logit_difference"] == 0
