"""The original layout of DeepSeek-VL with one vision tower (1.3B): tensors, config and image processor."""

from pathlib import Path
from typing import Any

from ..auto import DEEPSEEK_VL
from ..models.deepseek_vl.configuration_deepseek_vl import DeepseekVLConfig
from ..models.deepseek_vl.image_processing_deepseek_vl import DeepseekVLImageProcessor
from .config_fields import MODEL_TYPE, check_projector, has_vision_class, section, text_config
from .formats import OriginalFormat
from .processors import stored_image_settings
from .rules import Rename, Rule
from .siglip import siglip_config, siglip_rules

VISION_CLASS = "CLIPVisionTower"

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
        dtype=config.get("torch_dtype") or text["dtype"],
        architectures=["DeepseekVLForConditionalGeneration"],
    )
    check_projector(config, "mlp_gelu", resolved.vision_config.hidden_size, resolved)
    return resolved


def image_processor_from_original(folder: Path, config: dict[str, Any]) -> DeepseekVLImageProcessor:
    """The image processor of the checkpoint in `folder`, normalising as the tower of `config` does."""
    side = siglip_config(section(config, "vision_config.params"), "vision_config.params")["image_size"]
    return DeepseekVLImageProcessor(
        **stored_image_settings(folder, side, background_color="background_color"),
        size={"height": side, "width": side},
        image_mean=section(config, "vision_config.params.pixel_mean"),
        image_std=section(config, "vision_config.params.pixel_std"),
    )


FORMAT = OriginalFormat(
    description=f"DeepSeek-VL with one vision tower: model_type {MODEL_TYPE!r}, vision class {VISION_CLASS!r}",
    family=DEEPSEEK_VL,
    rules=RULES,
    describes=lambda config: has_vision_class(config, VISION_CLASS),
    read_config=config_from_original,
    read_image_processor=image_processor_from_original,
)
