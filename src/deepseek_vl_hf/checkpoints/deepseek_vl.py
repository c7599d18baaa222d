"""The original layout of DeepSeek-VL with one vision tower (1.3B): tensors and config."""

from pathlib import Path
from typing import Any

from ..auto import DEEPSEEK_VL
from ..models.deepseek_vl.configuration_deepseek_vl import DeepseekVLConfig
from ..models.deepseek_vl.image_processing_deepseek_vl import DeepseekVLImageProcessor
from .formats import OriginalFormat
from .processors import image_processor_kwargs
from .rules import Rename, Rule
from .siglip import siglip_config, siglip_rules

RULES: tuple[Rule, ...] = (
    *siglip_rules("vision_model.vision_tower", "model.vision_model"),
    Rename("aligner.layers.0.{kind}", "model.aligner.linear1.{kind}"),
    Rename("aligner.layers.2.{kind}", "model.aligner.linear2.{kind}"),
    Rename("language_model.model.{rest}", "model.language_model.{rest}"),
    Rename("language_model.lm_head.weight", "lm_head.weight"),
)

VISION_CLASS = "CLIPVisionTower"
PROJECTOR_TYPE = "mlp_gelu"


def is_original_config(config: dict[str, Any]) -> bool:
    """Whether an original config.json describes this family."""
    return config.get("model_type") == "multi_modality" and config.get("vision_config", {}).get("cls") == VISION_CLASS


def config_from_original(config: dict[str, Any], token_ids: dict[str, int]) -> DeepseekVLConfig:
    """Maps an original config.json.

    Args:
        config: the file's content.
        token_ids: `image_token_id`, `bos_token_id`, `eos_token_id` and `pad_token_id` of the tokenizer; the published
            files do not name them, and Llama's defaults would be wrong.

    Raises:
        ValueError: a tower or projector that this model does not have.
    """
    vision = siglip_config(config["vision_config"]["params"], "vision_config.params")
    text = _text_config(config["language_config"], token_ids)
    resolved = DeepseekVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token_ids["image_token_id"],
        dtype=config.get("torch_dtype") or text.get("dtype"),
        architectures=["DeepseekVLForConditionalGeneration"],
    )
    _check_projector(config["aligner_config"]["params"], resolved)
    return resolved


def _text_config(language: dict[str, Any], token_ids: dict[str, int]) -> dict[str, Any]:
    """What the file says, completed by Llama's defaults; private keys and the old spelling of dtype are left out."""
    kept = {key: value for key, value in language.items() if not key.startswith("_") and key != "torch_dtype"}
    special = {key: token_ids[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"model_type": "llama", **kept, **special, "dtype": language.get("torch_dtype")}


def _check_projector(params: dict[str, Any], config: DeepseekVLConfig) -> None:
    expected = {
        "projector_type": PROJECTOR_TYPE,
        "depth": 2,
        "input_dim": config.vision_config.hidden_size,
        "n_embed": config.text_config.hidden_size,
    }
    for key, value in expected.items():
        if params.get(key, value) != value:
            raise ValueError(
                f"aligner_config.params.{key} is {params[key]!r}; expected {value!r} for this tower and language model."
            )


def image_processor_from_original(folder: Path, config: dict[str, Any]) -> DeepseekVLImageProcessor:
    """The image processor of the checkpoint in `folder`, normalising as the tower of `config` does."""
    params = config["vision_config"]["params"]
    image_size = siglip_config(params, "vision_config.params")["image_size"]
    return DeepseekVLImageProcessor(
        **image_processor_kwargs(folder, image_size, params["pixel_mean"], params["pixel_std"])
    )


FORMAT = OriginalFormat(
    description="DeepSeek-VL with one vision tower: model_type 'multi_modality', vision class 'CLIPVisionTower'",
    family=DEEPSEEK_VL,
    rules=RULES,
    describes=is_original_config,
    read_config=config_from_original,
    read_image_processor=image_processor_from_original,
)
