"""The language model with experts in original files: from `language_config` to `DeepseekMoeConfig`, and back."""

from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

from ...models.deepseek_moe.configuration_deepseek_moe import AUX_LOSS_COEFFICIENTS, DeepseekMoeConfig
from .config_fields import check_values, checked_dtype

# Of the language model's fields: those that come from the tokenizer, or from transformers.
NOT_IN_FILES = {"bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters", "use_cache"}
NOT_IN_FILES |= {"output_router_logits", "router_aux_loss_coef"}
# Those that published files name even where they are the defaults.
ALWAYS_IN_FILES = {"n_routed_experts", "n_shared_experts", "num_experts_per_tok", "first_k_dense_replace"}
ALWAYS_IN_FILES |= {"vocab_size", "max_position_embeddings", "topk_method", "num_key_value_heads", "use_mla"}
ALWAYS_IN_FILES |= {"n_group", "topk_group", "q_lora_rank"}
ROPE_THETA = 10000.0
# What files of models with multi-head attention say of the latent one.
NO_LATENT = {"kv_lora_rank": None, "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0}
WITHOUT_CHOICE = {"moe_layer_freq": 1, "ep_size": 1, "pretraining_tp": 1, "rope_scaling": None}
HEADS = {"lm_head": True, "rm_head": False}


def text_fields(language: dict[str, Any], token_ids: dict[str, int]) -> dict[str, Any]:
    """Fields of `DeepseekMoeConfig`; the special ids come from the tokenizer.

    Raises:
        ValueError: a language model that this one is not.
    """
    check_values(language, {"model_type": "deepseek_v2", **WITHOUT_CHOICE}, "language_config")
    known = {field.name for field in fields(DeepseekMoeConfig)} - NOT_IN_FILES
    known -= {field.name for field in fields(PreTrainedConfig)} - {"tie_word_embeddings"}
    kept = {key: language[key] for key in language if key in known}
    if not kept.get("use_mla", True):
        check_values(language, NO_LATENT, "language_config")
        kept = {key: value for key, value in kept.items() if key not in NO_LATENT}
    if "aux_loss_alpha" in language:
        kept["router_aux_loss_coef"] = language["aux_loss_alpha"]
    if "rope_theta" in language:
        kept["rope_parameters"] = {"rope_type": "default", "rope_theta": language["rope_theta"]}
    special = {key: token_ids[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    dtype = checked_dtype(language, "language_config.")
    return {"model_type": DeepseekMoeConfig.model_type, **kept, **special, "dtype": dtype}


def language_section(text: PreTrainedConfig, dtype: str | None) -> dict[str, Any]:
    """The way back of `text_fields`."""
    ours = {field.name: field.default for field in fields(DeepseekMoeConfig) if field.name not in NOT_IN_FILES}
    for field in fields(PreTrainedConfig):
        ours.pop(field.name, None)
    values = {key: getattr(text, key) for key in ours}
    theta = {"rope_theta": text.rope_parameters["rope_theta"]}
    coefficient = {"aux_loss_alpha": text.router_aux_loss_coef}
    tied = {"tie_word_embeddings": text.tie_word_embeddings}
    return {
        **differing(values, ours),
        **{key: values[key] for key in ALWAYS_IN_FILES},
        **differing({**theta, **tied}, {"rope_theta": ROPE_THETA, "tie_word_embeddings": False}),
        **({} if text.use_mla else NO_LATENT),
        **differing(coefficient, {"aux_loss_alpha": AUX_LOSS_COEFFICIENTS[text.scoring_func]}),
        **HEADS,
        "architectures": ["DeepseekV2ForCausalLM"],
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "model_type": "deepseek_v2",
        "torch_dtype": dtype,
    }


def differing(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values that are not the defaults."""
    return {key: value for key, value in values.items() if value != defaults[key]}
