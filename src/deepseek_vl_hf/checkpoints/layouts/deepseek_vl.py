"""The original layout of DeepSeek-VL with one vision tower (1.3B): tensors, config and image processor."""

from typing import Any

from transformers import PreTrainedConfig

from ...models.deepseek_vl.configuration_deepseek_vl import DeepseekVLConfig
from ...models.deepseek_vl.image_processing_deepseek_vl import DeepseekVLImageProcessor
from ...models.families import DEEPSEEK_VL
from ...pictures.pixels import padding_color
from .config_fields import (
    MODEL_TYPE,
    check_projector,
    checked_dtype,
    has_vision_class,
    model_section,
    pixel_statistics,
    projector_section,
    section,
    text_config,
)
from .formats import OriginalFormat
from .processors import PROMPTS, image_section, image_settings, processor_section, processor_settings
from .rules import Rename, Rule
from .siglip import siglip_config, siglip_params, siglip_rules

VISION_CLASS = "CLIPVisionTower"
PROJECTOR_TYPE = "mlp_gelu"

RULES: tuple[Rule, ...] = (
    *siglip_rules("vision_model.vision_tower", "model.vision_model"),
    Rename("aligner.layers.0.{kind}", "model.aligner.linear1.{kind}"),
    Rename("aligner.layers.2.{kind}", "model.aligner.linear2.{kind}"),
    Rename("language_model.model.{rest}", "model.language_model.{rest}"),
    Rename("language_model.lm_head.weight", "lm_head.weight"),
)


def config_from_original(config: dict[str, Any], token_ids: dict[str, int]) -> DeepseekVLConfig:
    """Maps an original config.json.

    Args:
        config: the file's content.
        token_ids: `image_token_id`, `bos_token_id`, `eos_token_id` and `pad_token_id` of the tokenizer.

    Raises:
        ValueError: a tower or projector that this model does not have.
    """
    text = text_config(section(config, "language_config"), token_ids)
    resolved = DeepseekVLConfig(
        text_config=text,
        vision_config=siglip_config(section(config, "vision_config.params"), "vision_config.params"),
        image_token_id=token_ids["image_token_id"],
        dtype=checked_dtype(config) or text["dtype"],
        tie_word_embeddings=text.get("tie_word_embeddings", False),
        architectures=["DeepseekVLForConditionalGeneration"],
    )
    check_projector(config, PROJECTOR_TYPE, resolved.vision_config.hidden_size, resolved)
    return resolved


def image_processor_from_original(stored: dict[str, Any], config: dict[str, Any]) -> DeepseekVLImageProcessor:
    """The image processor of preprocessor_config.json (`stored`), normalizing as the tower of `config` does."""
    side = siglip_config(section(config, "vision_config.params"), "vision_config.params")["image_size"]
    mean, std = pixel_statistics(section(config, "vision_config.params"), "vision_config.params")
    return DeepseekVLImageProcessor(
        **image_settings(stored, side, background_color="background_color"),
        size={"height": side, "width": side},
        image_mean=mean,
        image_std=std,
    )


def config_to_original(config: PreTrainedConfig, images: DeepseekVLImageProcessor) -> dict[str, Any]:
    """The way back of `config_from_original`."""
    params = siglip_params(config.vision_config, images.image_mean, images.image_std)
    return model_section(
        config,
        vision={"cls": VISION_CLASS, "model_type": "vision", "params": params},
        aligner=projector_section(PROJECTOR_TYPE, config.vision_config.hidden_size, config),
    )


def image_processor_to_original(images: DeepseekVLImageProcessor) -> dict[str, Any]:
    """The way back of `image_processor_from_original`."""
    color = images.background_color or padding_color(images.image_mean)
    return image_section(images, images.size["height"], color, images.image_mean, images.image_std)


FORMAT = OriginalFormat(
    description=f"DeepSeek-VL with one vision tower: model_type {MODEL_TYPE!r}, vision class {VISION_CLASS!r}",
    model_type=MODEL_TYPE,
    prompts=PROMPTS,
    family=DEEPSEEK_VL,
    rules=RULES,
    describes=lambda config: has_vision_class(config, VISION_CLASS),
    read_config=config_from_original,
    read_image_processor=image_processor_from_original,
    read_processor=processor_settings,
    write_config=config_to_original,
    write_image_processor=image_processor_to_original,
    write_processor=processor_section,
)
