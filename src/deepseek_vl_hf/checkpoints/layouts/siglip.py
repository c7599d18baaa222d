"""The SigLIP tower, which all families share: names of its tensors and sizes of its presets."""

from typing import Any

from transformers import PreTrainedConfig

from .config_fields import check_values, tower_params
from .rules import Drop, Rename, Rule, Split, Squeeze

# What the original's `model_name` stands for. Keys beside it in a file override the preset (this project's convention
# for small models).
PRESETS: dict[str, dict[str, int]] = {
    "siglip_large_patch16_384": {"width": 1024, "layers": 24, "heads": 16, "patch_size": 16, "image_size": 384},
}
MLP_RATIO = 4


def siglip_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Rules for a tower that lies under the prefix `source` and goes under `target`."""
    block, layer = f"{source}.blocks.{{layer}}", f"{target}.encoder.layers.{{layer}}"
    attention = f"{layer}.self_attn"
    return (
        Squeeze(f"{source}.pos_embed", f"{target}.embeddings.position_embedding.weight"),
        Rename(f"{source}.patch_embed.proj.{{kind}}", f"{target}.embeddings.patch_embedding.{{kind}}"),
        Rename(f"{block}.norm1.{{kind}}", f"{layer}.layer_norm1.{{kind}}"),
        Split(
            f"{block}.attn.qkv.{{kind}}",
            (f"{attention}.q_proj.{{kind}}", f"{attention}.k_proj.{{kind}}", f"{attention}.v_proj.{{kind}}"),
        ),
        Rename(f"{block}.attn.proj.{{kind}}", f"{attention}.out_proj.{{kind}}"),
        Rename(f"{block}.norm2.{{kind}}", f"{layer}.layer_norm2.{{kind}}"),
        Rename(f"{block}.mlp.fc1.{{kind}}", f"{layer}.mlp.fc1.{{kind}}"),
        Rename(f"{block}.mlp.fc2.{{kind}}", f"{layer}.mlp.fc2.{{kind}}"),
        Rename(f"{source}.norm.{{kind}}", f"{target}.post_layernorm.{{kind}}"),
        Drop(f"{source}.attn_pool.{{rest}}", "the pooling head is stored but never used; the model reads all patches"),
    )


def siglip_config(params: dict[str, Any], place: str) -> dict[str, Any]:
    """Fields of `SiglipVisionConfig` from the original's tower parameters.

    Args:
        params: `model_name`, `image_size` and, for small models, `width`, `layers`, `heads`.
        place: where `params` stands in the file, for errors.

    Raises:
        ValueError: an unknown tower, or features taken from elsewhere than the last layer.
    """
    name = params.get("model_name")
    if name not in PRESETS:
        raise ValueError(f"{place}.model_name is {name!r}; expected {' or '.join(map(repr, PRESETS))}.")
    check_values(params, {"select_layer": -1, "select_feature": "same"}, place)
    sizes = {**PRESETS[name], **{key: params[key] for key in PRESETS[name] if key in params}}
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["width"] * MLP_RATIO,
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "image_size": sizes["image_size"],
        "patch_size": sizes["patch_size"],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "vision_use_head": False,
    }


def siglip_params(config: PreTrainedConfig, mean: Any, std: Any) -> dict[str, Any]:
    """The way back: the original's tower parameters from a `SiglipVisionConfig` and the pixels' normalization."""
    sizes = {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
    }
    return tower_params(PRESETS, sizes, mean, std)
