import json
from pathlib import Path

import pytest
import torch

from deepseek_vl_hf import DeepseekVLForConditionalGeneration, DeepseekVLHybridForConditionalGeneration
from deepseek_vl_hf.checkpoints import deepseek_vl, deepseek_vl_hybrid
from deepseek_vl_hf.checkpoints.rules import Drop, Rename, Split, Squeeze, convert_tensor, find_rule

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOKEN_IDS = {"image_token_id": 100015, "bos_token_id": 100000, "eos_token_id": 100001, "pad_token_id": 100001}


# Per published size: its layout, its class, how many tensors it stores, and how many of them are dropped.
SIZES = {
    "1.3b": (deepseek_vl, DeepseekVLForConditionalGeneration, 529, {"attn_pool": 13}),
    "7b": (deepseek_vl_hybrid, DeepseekVLHybridForConditionalGeneration, 775, {"attn_pool": 13, "_layer_norm": 4}),
}


def published_config(size):
    path = FIXTURES / "configs" / f"deepseek-vl-{size}-chat" / "config.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("size", SIZES)
def test_every_published_tensor_becomes_a_tensor_of_the_published_model(size):
    layout, model_class, num_tensors, expected_drops = SIZES[size]
    content = json.loads((FIXTURES / "weights" / f"deepseek-vl-{size}.json").read_text(encoding="utf-8"))
    assert len(content["shapes"]) == content["tensors"] == num_tensors
    found, dropped = {}, []
    with torch.device("meta"):
        model = model_class(layout.config_from_original(published_config(size), TOKEN_IDS))
        expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        for name, shape in content["shapes"].items():
            rule, _ = find_rule(layout.RULES, name)
            if isinstance(rule, Drop):
                assert rule.reason
                dropped.append(name)
            for target, tensor in convert_tensor(layout.RULES, name, torch.empty(shape)):
                assert target not in found
                found[target] = list(tensor.shape)
    assert found == expected
    assert {part: sum(part in name for name in dropped) for part in expected_drops} == expected_drops
    assert len(dropped) == sum(expected_drops.values())
    assert (
        sum(p.numel() for p in model.parameters())
        + sum(torch.Size(content["shapes"][name]).numel() for name in dropped)
        == content["params"]
    )


@pytest.mark.parametrize("size", SIZES)
def test_published_config(size):
    """A published file means the defaults of our config class, which hold the published sizes."""
    layout = SIZES[size][0]
    config = layout.config_from_original(published_config(size), TOKEN_IDS)
    reference = type(config)()
    for part in config.sub_configs:
        found, expected = getattr(config, part).to_dict(), getattr(reference, part).to_dict()
        assert found.pop("dtype") == ("float16" if part == "text_config" else None)
        expected.pop("dtype")
        assert found == expected, part
    assert config.dtype == torch.float16
    assert config.tie_word_embeddings is False


def test_ids_of_the_tokenizer_win_over_those_of_the_file():
    config = changed(published_config("1.3b"), "language_config.bos_token_id", 1)
    assert deepseek_vl.config_from_original(config, TOKEN_IDS).text_config.bos_token_id == 100000


def changed(config, path, value):
    config = json.loads(json.dumps(config))
    *folders, key = path.split(".")
    section = config
    for folder in folders:
        section = section[folder]
    section[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "vision_config.params.model_name",
            "vit_huge",
            "model_name is 'vit_huge'; expected 'siglip_large_patch16_384'",
        ),
        ("vision_config.params.select_layer", -2, "select_layer is -2; expected -1"),
        ("vision_config.params.select_feature", "cls", "select_feature is 'cls'; expected 'same'"),
        ("aligner_config.params.projector_type", "linear", "projector_type is 'linear'; expected 'mlp_gelu'"),
        ("aligner_config.params.depth", 3, "depth is 3; expected 2"),
        ("aligner_config.params.input_dim", 768, "input_dim is 768; expected 1024"),
        ("aligner_config.params.n_embed", 4096, "n_embed is 4096; expected 2048"),
        ("language_config.model_type", "gpt2", "text_config has the model_type 'gpt2'; expected 'llama'"),
    ],
)
def test_unknown_towers_and_projectors(path, value, message):
    with pytest.raises(ValueError, match=message):
        deepseek_vl.config_from_original(changed(published_config("1.3b"), path, value), TOKEN_IDS)


SMALLER_SAM = {"model_name": "sam_b_downsample", "prompt_embed_dim": 128, "downsample_channels": [256, 512]}
HIGH, LOW = "vision_config.params.high_res_cfg", "vision_config.params.low_res_cfg"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{HIGH}.model_name", "sam_h", "high_res_cfg.model_name is 'sam_h'; expected 'sam_b_downsample'"),
        (f"{HIGH}.select_layer", -2, "high_res_cfg.select_layer is -2; expected -1"),
        (f"{HIGH}.downsample_channels", [512, 512], r"downsample_channels is \[512, 512\]; expected \[512, 1024\]"),
        (f"{HIGH}.image_size", 1000, "image_size 1000 is no multiple of the patch size 16"),
        (f"{LOW}.model_name", "vit_huge", "low_res_cfg.model_name is 'vit_huge'"),
        ("vision_config.params.concat_type", "add", "concat_type is 'add'; expected 'tuple'"),
        ("aligner_config.params.projector_type", "mlp_gelu", "expected 'low_high_hybrid_split_mlp_gelu'"),
        ("aligner_config.params.input_dim", 768, "input_dim is 768; expected 1024"),
        (f"{LOW}.width", 512, "input_dim is 1024; expected 512"),
        (HIGH, SMALLER_SAM, "input_dim is 1024; expected 512"),
    ],
)
def test_unknown_towers_and_projectors_of_the_hybrid(path, value, message):
    with pytest.raises(ValueError, match=message):
        deepseek_vl_hybrid.config_from_original(changed(published_config("7b"), path, value), TOKEN_IDS)


def test_operations():
    tensor = torch.arange(12.0).reshape(6, 2)
    rules = (
        Rename("a.{layer}.{kind}", "b.{layer}.{kind}"),
        Split("qkv.{kind}", ("q.{kind}", "k.{kind}", "v.{kind}")),
        Squeeze("pos", "position"),
        Drop("unused.{rest}", "not read"),
    )
    assert dict(convert_tensor(rules, "a.12.bias", tensor)) == {"b.12.bias": tensor}
    parts = dict(convert_tensor(rules, "qkv.weight", tensor))
    assert list(parts) == ["q.weight", "k.weight", "v.weight"]
    assert torch.equal(torch.cat(list(parts.values())), tensor)
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts.values())
    (squeezed,) = dict(convert_tensor(rules, "pos", tensor[None])).values()
    assert torch.equal(squeezed, tensor)
    assert dict(convert_tensor(rules, "unused.x.y", tensor)) == {}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("qkv.weight", (7, 2), r"'qkv.weight' cannot be converted: expected a first dimension divisible by 3"),
        ("pos", (2, 3), r"'pos' cannot be converted: expected the shape \[1, ...\], found \[2, 3\]"),
        ("pos", (), r"found \[\]"),
    ],
)
def test_shapes_that_do_not_suit(name, shape, message):
    rules = (Split("qkv.{kind}", ("q.{kind}", "k.{kind}", "v.{kind}")), Squeeze("pos", "position"))
    with pytest.raises(ValueError, match=message):
        list(convert_tensor(rules, name, torch.empty(shape)))


def test_fields_match_what_they_stand_for():
    rules = (Rename("a.{layer}.{kind}", "b.{layer}.{kind}"),)
    for name in ("a.x.weight", "a.1.gamma", "a.1.weight.y", "c.a.1.weight", "axB.weight"):
        with pytest.raises(ValueError, match="0 rules speak of the tensor"):
            find_rule(rules, name)


def test_two_rules_for_one_tensor():
    with pytest.raises(ValueError, match=r"2 rules speak of the tensor 'a\.1'"):
        find_rule((Rename("a.{layer}", "b"), Rename("a.{rest}", "c")), "a.1")
