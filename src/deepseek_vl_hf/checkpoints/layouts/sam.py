"""SAM's encoder, which two families have: names of its tensors and sizes."""

from typing import Any

from transformers import PreTrainedConfig

from .rules import Rename, Rule

# Names of the sizes in original files, and in `SamVisionConfig`.
FIELDS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "global_attn_indexes": "global_attn_indexes",
    "prompt_embed_dim": "output_channels",
}


def sam_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Rules for an encoder that lies under the prefix `source` and goes under `target`, without its neck."""
    block, layer = f"{source}.blocks.{{layer}}", f"{target}.layers.{{layer}}"
    return (
        Rename(f"{source}.pos_embed", f"{target}.pos_embed"),
        Rename(f"{source}.patch_embed.proj.{{kind}}", f"{target}.patch_embed.projection.{{kind}}"),
        Rename(f"{block}.norm1.{{kind}}", f"{layer}.layer_norm1.{{kind}}"),
        Rename(f"{block}.attn.{{rest}}", f"{layer}.attn.{{rest}}"),
        Rename(f"{block}.norm2.{{kind}}", f"{layer}.layer_norm2.{{kind}}"),
        Rename(f"{block}.mlp.{{rest}}", f"{layer}.mlp.{{rest}}"),
    )


def neck_rules(source: str, target: str) -> tuple[Rule, ...]:
    """A neck is a sequence of four modules there and four named ones here."""
    names = ("conv1", "layer_norm1", "conv2", "layer_norm2")
    return tuple(
        Rename(f"{source}.{number}.{{kind}}", f"{target}.{name}.{{kind}}") for number, name in enumerate(names)
    )


def sam_fields(sizes: dict[str, Any]) -> dict[str, Any]:
    """Fields of `SamVisionConfig` from the original's sizes."""
    return {"model_type": "sam_vision_model", **{field: sizes[name] for name, field in FIELDS.items()}}


def sam_sizes(config: PreTrainedConfig) -> dict[str, Any]:
    """The way back: the original's sizes."""
    sizes = {name: getattr(config, field) for name, field in FIELDS.items()}
    return {**sizes, "global_attn_indexes": list(config.global_attn_indexes)}
