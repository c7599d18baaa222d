"""The original layout of DeepSeek-VL-Hybrid (7B): tensors, config and image processor."""

from typing import Any

from transformers import PreTrainedConfig

from ...models.deepseek_vl_hybrid.configuration_deepseek_vl_hybrid import DeepseekVLHybridConfig
from ...models.deepseek_vl_hybrid.image_processing_deepseek_vl_hybrid import DeepseekVLHybridImageProcessor
from ...models.families import DEEPSEEK_VL_HYBRID
from ...pictures.pixels import padding_color
from .config_fields import (
    MODEL_TYPE,
    check_projector,
    check_values,
    checked_dtype,
    has_vision_class,
    model_section,
    pixel_statistics,
    projector_section,
    section,
    text_config,
    tower_params,
)
from .formats import OriginalFormat
from .processors import PROMPTS, image_section, image_settings, processor_section, processor_settings
from .rules import Drop, Rename, Rule
from .sam import neck_rules, sam_fields, sam_rules, sam_sizes
from .siglip import siglip_config, siglip_params, siglip_rules

VISION_CLASS = "HybridVisionTower"
PROJECTOR_TYPE = "low_high_hybrid_split_mlp_gelu"
HIGH, LOW = "vision_config.params.high_res_cfg", "vision_config.params.low_res_cfg"

# What the original's `model_name` stands for. Keys beside it in a file override the preset (this project's convention
# for small models).
SAM_PRESETS: dict[str, dict[str, Any]] = {
    "sam_b_downsample": {
        "width": 768,
        "layers": 12,
        "heads": 12,
        "image_size": 1024,
        "global_attn_indexes": [2, 5, 8, 11],
        "prompt_embed_dim": 256,
        "downsample_channels": [512, 1024],
    },
}

_SAM = "vision_model.vision_tower_high.vision_tower"
_ENCODER = "model.high_res_vision_model.vision_encoder"

SAM_RULES: tuple[Rule, ...] = (
    *sam_rules(_SAM, _ENCODER),
    *neck_rules(f"{_SAM}.neck", f"{_ENCODER}.neck"),
    *neck_rules(f"{_SAM}.neck_hd", "model.high_res_vision_neck"),
    Rename(f"{_SAM}.downsamples.0.weight", "model.high_res_vision_proj.conv1.weight"),
    Rename(f"{_SAM}.downsamples.1.weight", "model.high_res_vision_proj.conv2.weight"),
    Rename(f"{_SAM}.hd_alpha_downsamples", "model.high_res_vision_alpha"),
)

RULES: tuple[Rule, ...] = (
    *SAM_RULES,
    *siglip_rules("vision_model.vision_tower_low.vision_tower", "model.vision_model"),
    Drop("vision_model.high_layer_norm.{kind}", "a LayerNorm that is stored but never applied"),
    Drop("vision_model.low_layer_norm.{kind}", "a LayerNorm that is stored but never applied"),
    Rename("aligner.high_up_proj.{kind}", "model.aligner.high_res_vision_proj.{kind}"),
    Rename("aligner.low_up_proj.{kind}", "model.aligner.vision_proj.{kind}"),
    Rename("aligner.layers.1.{kind}", "model.aligner.proj.{kind}"),
    Rename("language_model.model.{rest}", "model.language_model.{rest}"),
    Rename("language_model.lm_head.weight", "lm_head.weight"),
)


def sam_config(params: dict[str, Any], place: str) -> dict[str, Any]:
    """Fields of `SamVisionConfig` from the original's parameters of the high-resolution tower.

    Raises:
        ValueError: an unknown tower, or convolutions of other widths than twice and four times the neck's.
    """
    name = params.get("model_name")
    if name not in SAM_PRESETS:
        raise ValueError(f"{place}.model_name is {name!r}; expected {' or '.join(map(repr, SAM_PRESETS))}.")
    sizes = {**SAM_PRESETS[name], **{key: params[key] for key in SAM_PRESETS[name] if key in params}}
    channels = sizes["prompt_embed_dim"]
    published = {"select_layer": -1, "select_feature": "same"}
    check_values(params, published, place)
    check_values(sizes, {"downsample_channels": [2 * channels, 4 * channels]}, place)
    return {**sam_fields(sizes), "image_size": sizes["image_size"]}


def config_from_original(config: dict[str, Any], token_ids: dict[str, int]) -> DeepseekVLHybridConfig:
    """Maps an original config.json.

    Args:
        config: the file's content.
        token_ids: `image_token_id`, `bos_token_id`, `eos_token_id` and `pad_token_id` of the tokenizer.

    Raises:
        ValueError: a tower or projector that this model does not have.
    """
    check_values(section(config, "vision_config.params"), {"concat_type": "tuple"}, "vision_config.params")
    text = text_config(section(config, "language_config"), token_ids)
    resolved = DeepseekVLHybridConfig(
        text_config=text,
        vision_config=siglip_config(section(config, LOW), LOW),
        high_res_vision_config=sam_config(section(config, HIGH), HIGH),
        image_token_id=token_ids["image_token_id"],
        dtype=checked_dtype(config) or text["dtype"],
        tie_word_embeddings=text.get("tie_word_embeddings", False),
        architectures=["DeepseekVLHybridForConditionalGeneration"],
    )
    # The file names one width for both towers.
    for width in (resolved.vision_config.hidden_size, 4 * resolved.high_res_vision_config.output_channels):
        check_projector(config, PROJECTOR_TYPE, width, resolved)
    return resolved


def image_processor_from_original(stored: dict[str, Any], config: dict[str, Any]) -> DeepseekVLHybridImageProcessor:
    """The image processor of preprocessor_config.json (`stored`), normalizing as the towers of `config` do."""
    high_side, low_side = sam_config(section(config, HIGH), HIGH)["image_size"], section(config, f"{LOW}.image_size")
    (mean, std), (high_mean, high_std) = (pixel_statistics(section(config, place), place) for place in (LOW, HIGH))
    return DeepseekVLHybridImageProcessor(
        **image_settings(stored, high_side, background_color="high_res_background_color"),
        size={"height": low_side, "width": low_side},
        image_mean=mean,
        image_std=std,
        high_res_size={"height": high_side, "width": high_side},
        high_res_image_mean=high_mean,
        high_res_image_std=high_std,
    )


def config_to_original(config: PreTrainedConfig, images: DeepseekVLHybridImageProcessor) -> dict[str, Any]:
    """The way back of `config_from_original`."""
    sam = config.high_res_vision_config
    channels = sam.output_channels
    sizes = {
        **sam_sizes(sam),
        "image_size": sam.image_size,
        "downsample_channels": [2 * channels, 4 * channels],
    }
    params = {
        "concat_type": "tuple",
        "high_res_cfg": tower_params(SAM_PRESETS, sizes, images.high_res_image_mean, images.high_res_image_std),
        "low_res_cfg": siglip_params(config.vision_config, images.image_mean, images.image_std),
    }
    return model_section(
        config,
        vision={"cls": VISION_CLASS, "model_type": "vision", "params": params},
        aligner=projector_section(PROJECTOR_TYPE, config.vision_config.hidden_size, config),
    )


def image_processor_to_original(images: DeepseekVLHybridImageProcessor) -> dict[str, Any]:
    """The way back of `image_processor_from_original`."""
    mean, std = images.high_res_image_mean, images.high_res_image_std
    color = images.high_res_background_color or padding_color(mean)
    return image_section(images, images.high_res_size["height"], color, mean, std)


FORMAT = OriginalFormat(
    description=f"DeepSeek-VL with two vision towers: model_type {MODEL_TYPE!r}, vision class {VISION_CLASS!r}",
    model_type=MODEL_TYPE,
    prompts=PROMPTS,
    family=DEEPSEEK_VL_HYBRID,
    rules=RULES,
    describes=lambda config: has_vision_class(config, VISION_CLASS),
    read_config=config_from_original,
    read_image_processor=image_processor_from_original,
    read_processor=processor_settings,
    write_config=config_to_original,
    write_image_processor=image_processor_to_original,
    write_processor=processor_section,
)
