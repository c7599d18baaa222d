import json
import shutil
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from deepseek_vl_hf import (
    DeepseekOCRForConditionalGeneration,
    DeepseekVL2ForConditionalGeneration,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridForConditionalGeneration,
)
from deepseek_vl_hf.checkpoints.layouts import deepseek_ocr, deepseek_vl, deepseek_vl2, deepseek_vl_hybrid
from deepseek_vl_hf.checkpoints.layouts.files import in_folder
from deepseek_vl_hf.checkpoints.layouts.original import read_original
from deepseek_vl_hf.checkpoints.layouts.rules import Concatenate, Drop, Rename, Split, Squeeze, find_rule, invert
from deepseek_vl_hf.checkpoints.tensors.byte_ranges import TensorBytes
from deepseek_vl_hf.checkpoints.tensors.plan import as_sources, plan_tensors
from deepseek_vl_hf.checkpoints.tensors.source import StoredTensor

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOKEN_IDS = {"image_token_id": 100015, "bos_token_id": 100000, "eos_token_id": 100001, "pad_token_id": 100001}
SMALL_TOKEN_IDS = {"image_token_id": 100003, "bos_token_id": 100000, "eos_token_id": 100001, "pad_token_id": 100002}
VL2_TOKEN_IDS = {"image_token_id": 128815, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def stored(tensors):
    """Tensors as if they were read from a file."""
    return {
        name: StoredTensor(name, tensor.dtype, tuple(tensor.shape), TensorBytes(tensor))
        for name, tensor in tensors.items()
    }


class Size(NamedTuple):
    """A published size: its files, layout, class, how many tensors it stores, how many of them are dropped."""

    files: str
    weights: str
    layout: Any
    model_class: type
    num_tensors: int
    dropped: dict[str, int]
    token_ids: dict[str, int]
    dtype: str

    @property
    def config(self):
        return json.loads((FIXTURES / "configs" / self.files / "config.json").read_text(encoding="utf-8"))

    def resolved(self):
        return self.layout.config_from_original(self.config, self.token_ids)


SIZES = {
    "1.3b": Size(
        "deepseek-vl-1.3b-chat",
        "deepseek-vl-1.3b",
        deepseek_vl,
        DeepseekVLForConditionalGeneration,
        529,
        {"attn_pool": 13},
        TOKEN_IDS,
        "float16",
    ),
    "7b": Size(
        "deepseek-vl-7b-chat",
        "deepseek-vl-7b",
        deepseek_vl_hybrid,
        DeepseekVLHybridForConditionalGeneration,
        775,
        {"attn_pool": 13, "_layer_norm": 4},
        TOKEN_IDS,
        "float16",
    ),
    "vl2-tiny": Size(
        "deepseek-vl2-tiny",
        "deepseek-vl2-tiny",
        deepseek_vl2,
        DeepseekVL2ForConditionalGeneration,
        2582,
        {"attn_pool": 13},
        VL2_TOKEN_IDS,
        "bfloat16",
    ),
    "vl2-small": Size(
        "deepseek-vl2-small",
        "deepseek-vl2-small",
        deepseek_vl2,
        DeepseekVL2ForConditionalGeneration,
        5639,
        {"attn_pool": 13},
        SMALL_TOKEN_IDS,
        "bfloat16",
    ),
    "vl2-base": Size(
        "deepseek-vl2",
        "deepseek-vl2",
        deepseek_vl2,
        DeepseekVL2ForConditionalGeneration,
        6973,
        {"attn_pool": 13},
        VL2_TOKEN_IDS,
        "bfloat16",
    ),
    "ocr": Size(
        "deepseek-ocr",
        "deepseek-ocr",
        deepseek_ocr,
        DeepseekOCRForConditionalGeneration,
        2710,
        {"patch_embedding": 1},
        VL2_TOKEN_IDS,
        "bfloat16",
    ),
}
# Those whose values are the defaults of our config class.
DEFAULT_SIZES = ("1.3b", "7b", "vl2-tiny", "ocr")


@pytest.fixture(params=SIZES)
def size(request):
    return SIZES[request.param]


def published_config(size):
    return SIZES[size].config


def test_every_published_tensor_becomes_a_tensor_of_the_published_model_and_back(size):
    layout, expected_drops = size.layout, size.dropped
    content = json.loads((FIXTURES / "weights" / f"{size.weights}.json").read_text(encoding="utf-8"))
    assert len(content["shapes"]) == content["tensors"] == size.num_tensors
    sources = stored({name: torch.empty(shape, device="meta") for name, shape in content["shapes"].items()})
    with torch.device("meta"):
        model = size.model_class(size.resolved())
    plan = plan_tensors(layout.RULES, sources)
    assert plan.shapes() == layout.FORMAT.stored_shapes(model)
    assert all(plan.dropped)
    dropped = [tensor for tensors in plan.dropped.values() for tensor in tensors]
    assert {part: sum(part in tensor.name for tensor in dropped) for part in expected_drops} == expected_drops
    assert len(dropped) == sum(expected_drops.values())
    stored_numbers = sum(tensor.numel() for tensor in model.state_dict().values())  # a correction bias is no parameter
    assert stored_numbers + sum(prod(tensor.shape) for tensor in dropped) == content["params"]

    used = {name: tensor.shape for name, tensor in sources.items() if tensor not in dropped}
    assert plan_tensors(invert(layout.RULES), as_sources(plan)).shapes() == used


@pytest.mark.parametrize("size", DEFAULT_SIZES, indirect=True)
def test_published_config(size):
    """A published file means the defaults of our config class, which hold the published sizes."""
    config = size.resolved()
    reference = type(config)()
    for part in config.sub_configs:
        found, expected = getattr(config, part).to_dict(), getattr(reference, part).to_dict()
        assert found.pop("dtype") == (size.dtype if part == "text_config" else None)
        expected.pop("dtype")
        assert found == expected, part
    assert config.dtype == getattr(torch, size.dtype)
    assert config.tie_word_embeddings is False


def test_what_the_files_of_small_and_base_leave_out_is_the_originals():
    """Not transformers' `DeepseekV2Config`, whose defaults differ."""
    latent = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "use_mla": True}
    shared = {**latent, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "n_shared_experts": 2}
    small = {"vocab_size": 102400, "num_hidden_layers": 27, "num_attention_heads": 16, "bos_token_id": 100000}
    small |= {"scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.0, "qk_head_dim": 192}
    small |= {"router_aux_loss_coef": 1e-3, "num_key_value_heads": 16}
    base = {"vocab_size": 129280, "num_hidden_layers": 30, "num_attention_heads": 32, "bos_token_id": 0}
    base |= {"scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.0, "n_routed_experts": 72}
    base |= {"router_aux_loss_coef": 1e-4, "num_key_value_heads": 32}
    for name, expected in (("vl2-small", small), ("vl2-base", base)):
        text = SIZES[name].resolved().text_config
        assert {key: getattr(text, key) for key in shared | expected} == shared | expected
        assert text.rope_parameters["rope_theta"] == 10000.0


def test_nothing_in_the_published_files_is_left_unread(size, tmp_path):
    shutil.copytree(FIXTURES / "configs" / size.files, tmp_path / "published")
    checkpoint = FIXTURES / ("vl2_mha" if size.layout is deepseek_vl2 else "vl") / "checkpoint"
    for path in checkpoint.glob("tokenizer*.json"):
        shutil.copy(path, tmp_path / "published")
    files = read_original(in_folder(tmp_path / "published"))
    files.load_processor(files.load_tokenizer(), files.load_image_processor())
    assert list(files.unread_keys()) == []


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
        ("language_config.model_type", "gpt2", "language_config.model_type is 'gpt2'; expected 'llama'"),
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
        (f"{HIGH}.image_size", 1000, "image_size 1000 is not a multiple of the patch size 16"),
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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tile_tag", "1D", "config.json.tile_tag is '1D'; expected '2D', as all these models have"),
        ("global_view_pos", "tail", "global_view_pos is 'tail'; expected 'head'"),
        ("vision_config.model_name", "vit_huge", "model_name is 'vit_huge'; expected 'siglip_so400m_patch14_384'"),
        ("vision_config.class_token", True, "class_token is True; expected False"),
        ("projector_config.projector_type", "linear", "projector_type is 'linear'; expected 'downsample_mlp_gelu'"),
        ("projector_config.n_embed", 99, "n_embed is 99; expected 1280"),
        ("language_config.rope_scaling", {"type": "yarn"}, "rope_scaling is {'type': 'yarn'}; expected None"),
        ("language_config.moe_layer_freq", 2, "moe_layer_freq is 2; expected 1"),
        ("language_config.topk_method", "group_limited_greedy", "topk_method 'group_limited_greedy'"),
        ("language_config.scoring_func", "sigmoid", "scoring_func 'sigmoid' with topk_method 'greedy'"),
        ("language_config.kv_lora_rank", 512, "kv_lora_rank is 512; expected None"),
        ("language_config.model_type", "llama", "model_type is 'llama'; expected 'deepseek_v2'"),
    ],
)
def test_what_no_published_deepseek_vl2_has(path, value, message):
    config = changed(published_config("vl2-tiny"), path, value)
    with pytest.raises(ValueError, match=message):
        deepseek_vl2.config_from_original(config, VL2_TOKEN_IDS)


@pytest.mark.parametrize("candidates", [[], [[384, 384], [384, 500]]])
def test_candidates_that_are_no_tiles(candidates):
    config = changed(published_config("vl2-tiny"), "candidate_resolutions", candidates)
    with pytest.raises(ValueError, match="candidate_resolutions"):
        deepseek_vl2.image_processor_from_original({"candidate_resolutions": candidates}, config)


def test_candidates_of_two_files_disagree():
    with pytest.raises(ValueError, match=r"candidate_resolutions is \[\[384, 384\]\]; expected"):
        deepseek_vl2.image_processor_from_original(
            {"candidate_resolutions": [[384, 384]]}, published_config("vl2-tiny")
        )


TABLE = (
    Rename("a.{layer}.{kind}", "b.{layer}.{kind}"),
    Split("qkv.{kind}", ("q.{kind}", "k.{kind}", "v.{kind}")),
    Squeeze("pos", "position"),
    Concatenate(("gate.{kind}", "up.{kind}"), "gate_up.{kind}"),
    Drop("unused.{rest}", "not read"),
)


def contents(plan):
    """The planned tensors, put together from their bytes."""
    return {
        tensor.name: torch.cat(
            [
                torch.frombuffer(piece.tensor.data.read(piece.start, piece.num_bytes), dtype=tensor.dtype)
                for piece in tensor.pieces
            ]
        ).reshape(tensor.shape)
        for tensor in plan.tensors
    }


def test_a_table_there_and_back():
    torch.manual_seed(0)
    tensors = {
        "a.12.bias": torch.randn(3),
        "qkv.weight": torch.randn(6, 2),
        "pos": torch.randn(1, 4, 2),
        "up.weight": torch.randn(2, 3),
        "gate.weight": torch.randn(2, 3),
        "unused.x.y": torch.randn(1),
    }
    plan = plan_tensors(TABLE, stored(tensors))
    there = contents(plan)
    assert list(plan.dropped) == ["not read"]
    assert torch.equal(there["b.12.bias"], tensors["a.12.bias"])
    assert torch.equal(torch.cat([there[f"{part}.weight"] for part in "qkv"]), tensors["qkv.weight"])
    assert torch.equal(there["position"], tensors["pos"][0])
    assert torch.equal(there["gate_up.weight"], torch.cat([tensors["gate.weight"], tensors["up.weight"]]))
    back = contents(plan_tensors(invert(TABLE), stored(there)))
    assert back.keys() == tensors.keys() - {"unused.x.y"}
    assert all(torch.equal(back[name], tensors[name]) for name in back)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"qkv.weight": (7, 2)}, "'qkv.weight' cannot be converted: expected a first dimension divisible by 3"),
        ({"pos": (2, 3)}, r"'pos' cannot be converted: expected the shape \[1, ...\], found \[2, 3\]"),
        ({"pos": ()}, r"found \[\]"),
        ({"gate.bias": (2,)}, "'gate_up.bias' needs 2 tensors, but only gate.bias is there"),
        ({"gate.bias": (2,), "up.bias": (3,)}, r"expected parts of one shape, found \[2\], \[3\]"),
    ],
)
def test_shapes_that_do_not_suit(tensors, message):
    with pytest.raises(ValueError, match=message):
        plan_tensors(TABLE, stored({name: torch.empty(shape) for name, shape in tensors.items()}))


def test_parts_of_different_types():
    parts = {"gate.bias": torch.zeros(2), "up.bias": torch.zeros(2, dtype=torch.float16)}
    with pytest.raises(ValueError, match=r"different types: torch.float32, torch.float16"):
        plan_tensors(TABLE, stored(parts))


def test_two_tensors_for_one_name():
    rules = (Rename("a.{kind}", "c"), Rename("b.{kind}", "c"))
    with pytest.raises(ValueError, match="Two source tensors become 'c'"):
        plan_tensors(rules, stored({"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)}))


def test_fields_match_what_they_stand_for():
    rules = (Rename("a.{layer}.{kind}", "b.{layer}.{kind}"),)
    for name in ("a.x.weight", "a.1.gamma", "a.1.weight.y", "c.a.1.weight", "axB.weight"):
        with pytest.raises(ValueError, match="0 rules speak of the tensor"):
            find_rule(rules, name)


def test_two_rules_for_one_tensor():
    with pytest.raises(ValueError, match=r"2 rules speak of the tensor 'a\.1'"):
        find_rule((Rename("a.{layer}", "b"), Rename("a.{rest}", "c")), "a.1")
