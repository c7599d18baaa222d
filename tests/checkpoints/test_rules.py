import json

import pytest
import torch
from transformers import AutoConfig

from deepseek_vl_hf import DeepseekVLForConditionalGeneration
from deepseek_vl_hf.checkpoints import deepseek_vl
from deepseek_vl_hf.checkpoints.rules import Drop, Rename, Split, Squeeze, convert_tensor, find_rule

TOKEN_IDS = {"image_token_id": 100015, "bos_token_id": 100000, "eos_token_id": 100001, "pad_token_id": 100001}


@pytest.fixture(scope="module")
def published(fixtures):
    """Names and shapes of the published 1.3B checkpoint."""
    content = json.loads((fixtures / "weights" / "deepseek-vl-1.3b.json").read_text())
    assert len(content["shapes"]) == content["tensors"] == 529
    return content["shapes"]


@pytest.fixture(scope="module")
def published_config(fixtures):
    return json.loads((fixtures / "configs" / "deepseek-vl-1.3b-chat" / "config.json").read_text())


def test_every_published_tensor_becomes_a_tensor_of_the_published_model(published, published_config):
    with torch.device("meta"):
        model = DeepseekVLForConditionalGeneration(deepseek_vl.config_from_original(published_config, TOKEN_IDS))
        expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        found, dropped = {}, {}
        for name, shape in published.items():
            rule, _ = find_rule(deepseek_vl.RULES, name)
            if isinstance(rule, Drop):
                dropped[name] = rule.reason
            for target, tensor in convert_tensor(deepseek_vl.RULES, name, torch.empty(shape)):
                assert target not in found
                found[target] = list(tensor.shape)
    assert found == expected
    assert len(dropped) == 13
    assert all("attn_pool" in name and reason for name, reason in dropped.items())


def test_published_config(published_config):
    config = deepseek_vl.config_from_original(published_config, TOKEN_IDS)
    reference = AutoConfig.for_model("deepseek_vl")
    for part in ("text_config", "vision_config"):
        found, expected = getattr(config, part).to_dict(), getattr(reference, part).to_dict()
        assert found.pop("dtype") == ("float16" if part == "text_config" else None)
        expected.pop("dtype")
        assert found == expected
    assert config.dtype == torch.float16
    assert config.tie_word_embeddings is False


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
def test_unknown_towers_and_projectors(published_config, path, value, message):
    with pytest.raises(ValueError, match=message):
        deepseek_vl.config_from_original(changed(published_config, path, value), TOKEN_IDS)


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
