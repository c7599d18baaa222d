import json

import pytest
from transformers import AutoConfig, LlamaConfig, SiglipVisionConfig

from deepseek_vl_hf import DeepseekVL2Config, DeepseekVLConfig, DeepseekVLHybridConfig


def test_published_sizes_where_nothing_is_said():
    config = DeepseekVLConfig()
    assert (config.vision_config.hidden_size, config.vision_config.num_hidden_layers) == (1024, 24)
    assert (config.vision_config.hidden_act, config.vision_config.vision_use_head) == ("gelu", False)
    assert (config.text_config.hidden_size, config.text_config.intermediate_size) == (2048, 5632)
    assert (config.text_config.bos_token_id, config.text_config.eos_token_id) == (100000, 100001)
    assert (config.image_token_id, config.tie_word_embeddings) == (100015, False)


def test_a_given_part_is_completed_by_its_own_defaults():
    config = DeepseekVLConfig(vision_config={"hidden_size": 32}, text_config={"vocab_size": 640})
    assert config.vision_config.to_dict() == SiglipVisionConfig(hidden_size=32).to_dict()
    assert config.text_config.to_dict() == LlamaConfig(vocab_size=640).to_dict()


def test_parts_may_be_configs():
    text, vision = LlamaConfig(hidden_size=64), SiglipVisionConfig(image_size=64, patch_size=16)
    config = DeepseekVLConfig(text_config=text, vision_config=vision)
    assert config.text_config is text
    assert config.vision_config is vision


def test_given_dicts_stay_as_they_are():
    given = {"hidden_size": 32}
    DeepseekVLConfig(vision_config=given)
    assert given == {"hidden_size": 32}


@pytest.mark.parametrize("tied", [False, True])
def test_tie_word_embeddings_is_always_written(tmp_path, tied):
    DeepseekVLConfig(tie_word_embeddings=tied).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["tie_word_embeddings"] is tied
    assert AutoConfig.from_pretrained(tmp_path).tie_word_embeddings is tied


def test_save_and_load(tmp_path):
    config = DeepseekVLConfig(vision_config={"hidden_size": 32}, text_config={"vocab_size": 640}, image_token_id=602)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is DeepseekVLConfig
    ignored = {"_name_or_path", "transformers_version"}
    first, second = ({k: v for k, v in c.to_dict().items() if k not in ignored} for c in (config, loaded))
    assert first == second


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"vision_config": {"model_type": "clip_vision_model"}},
            ValueError,
            "vision_config has the model_type 'clip_v",
        ),
        (
            {"vision_config": {"model_type": "no_such_tower"}},
            ValueError,
            "'no_such_tower'; expected 'siglip_vision_mod",
        ),
        (
            {"text_config": {"model_type": "gpt2"}},
            ValueError,
            "text_config has the model_type 'gpt2'; expected 'llama'",
        ),
        ({"text_config": "llama"}, TypeError, "text_config is a str; expected a config, a dict"),
    ],
)
def test_unknown_parts(fields, error, message):
    with pytest.raises(error, match=message):
        DeepseekVLConfig(**fields)


@pytest.mark.parametrize("size", [10**9, -1, 2.5, "many", True])
@pytest.mark.parametrize(
    ("config", "part", "field"),
    [
        (DeepseekVLConfig, "text_config", "num_hidden_layers"),
        (DeepseekVLConfig, "vision_config", "num_attention_heads"),
        (DeepseekVLHybridConfig, "high_res_vision_config", "num_hidden_layers"),
        (DeepseekVL2Config, "text_config", "n_routed_experts"),
        (DeepseekVL2Config, "projector_config", "downsample_ratio"),
    ],
)
def test_sizes_that_no_model_has(config, part, field, size):
    """They would be built layer by layer until memory ends."""
    with pytest.raises(ValueError, match=rf"{part} (has {field}|cannot be read .*'{field}'|.* hold only -1)"):
        config(**{part: {field: size}})
