"""The original layout of DeepSeek-VL2: tensors, config and processor. There is no preprocessor_config.json."""

from typing import Any

from transformers import PreTrainedConfig, ProcessorMixin

from ...conversation.chat_templates import DEEPSEEK_VL2_TEMPLATE, VL2_IMAGE_TOKEN
from ...kinds import is_number
from ...models.deepseek_moe.expert_weights import stored_shapes
from ...models.deepseek_vl2.configuration_deepseek_vl2 import SIGLIP_SO400M_PATCH14_384, DeepseekVL2Config
from ...models.deepseek_vl2.image_processing_deepseek_vl2 import DeepseekVL2ImageProcessor
from ...models.deepseek_vl2.tiling import check_candidates
from ...models.families import DEEPSEEK_VL2
from .config_fields import check_values, checked_dtype, section
from .deepseek_moe import differing, language_section, text_fields
from .files import PROCESSOR
from .formats import OriginalFormat, PromptFormat
from .rules import Rename, Rule
from .siglip import siglip_rules

MODEL_TYPE = "deepseek_vl_v2"
ARCHITECTURE = "DeepseekVL"  # with what its names of classes begin; DeepSeek-OCR has the same model type
TOWER = "siglip_so400m_patch14_384"
# What the name stands for. Keys beside it in a file override it (this project's convention for small models).
PRESET: dict[str, Any] = {
    "width": 1152,
    "layers": 27,
    "heads": 16,
    "patch_size": 14,
    "image_size": 384,
    "mlp_ratio": 3.7362,
}
# The same in our config.
FIELDS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "patch_size": "patch_size",
    "image_size": "image_size",
}
PROJECTOR = {"model_type": "mlp_projector", "projector_type": "downsample_mlp_gelu", "depth": 2, "mlp_ratio": 1}
# What the original's classes take where a file says nothing.
N_EMBED, DOWNSAMPLE_RATIO = 2048, 2

RULES: tuple[Rule, ...] = (
    *siglip_rules("vision", "model.vision_model"),
    Rename("projector.layers.0.{kind}", "model.projector.linear1.{kind}"),
    Rename("projector.layers.2.{kind}", "model.projector.linear2.{kind}"),
    Rename("image_newline", "model.image_newline"),
    Rename("view_seperator", "model.view_separator"),
    Rename("language.model.{rest}", "model.language_model.{rest}"),
    Rename("language.lm_head.weight", "lm_head.weight"),
)

PROMPTS = PromptFormat(
    chat_template=DEEPSEEK_VL2_TEMPLATE,
    image_token=VL2_IMAGE_TOKEN,
    image_token_key="image_token",
    added_tokens={
        "ref_token": "<|ref|>",
        "ref_end_token": "<|/ref|>",
        "det_token": "<|det|>",
        "det_end_token": "<|/det|>",
        "grounding_token": "<|grounding|>",
        "user_token": "<|User|>",
        "assistant_token": "<|Assistant|>",
    },
    default_vocabulary=102400,
    token_ids={
        102400: {"bos_token_id": 100000, "eos_token_id": 100001, "pad_token_id": 100002, "image_token_id": 100003},
        129280: {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "image_token_id": 128815},
    },
)


def config_from_original(config: dict[str, Any], token_ids: dict[str, int]) -> DeepseekVL2Config:
    """Maps an original config.json.

    Args:
        config: the file's content.
        token_ids: `image_token_id`, `bos_token_id`, `eos_token_id` and `pad_token_id` of the tokenizer.

    Raises:
        ValueError: a tower, projector, layout of tiles or language model that this model does not have.
    """
    check_values(config, {"tile_tag": "2D", "global_view_pos": "head"}, "config.json")
    language = section(config, "language_config")
    text = text_fields(language, token_ids)
    vision = _vision_config(section(config, "vision_config"))
    projector = config.get("projector_config", {})
    expected = {**PROJECTOR, "input_dim": vision["hidden_size"], "token_pooling": False}
    check_values(projector, expected, "projector_config")
    check_values({"n_embed": projector.get("n_embed", N_EMBED)}, {"n_embed": text["hidden_size"]}, "projector_config")
    return DeepseekVL2Config(
        text_config=text,
        vision_config=vision,
        projector_config={"downsample_ratio": projector.get("downsample_ratio", DOWNSAMPLE_RATIO)},
        image_token_id=token_ids["image_token_id"],
        dtype=checked_dtype(config) or text["dtype"],
        tie_word_embeddings=text.get("tie_word_embeddings", False),
        architectures=["DeepseekVL2ForConditionalGeneration"],
    )


def _vision_config(vision: dict[str, Any]) -> dict[str, Any]:
    fixed = {"model_type": "vision", "model_name": TOWER, "class_token": False, "num_classes": 0, "global_pool": "map"}
    section(vision, "model_name")  # may not be left out, unlike the others
    check_values(vision, fixed, "vision_config")
    sizes = {name: vision.get(name, value) for name, value in PRESET.items()}
    if not is_number(sizes["mlp_ratio"]):
        raise ValueError(f"vision_config.mlp_ratio is {sizes['mlp_ratio']!r}; expected a number.")
    return {
        **SIGLIP_SO400M_PATCH14_384,
        **{field: sizes[name] for name, field in FIELDS.items()},
        "intermediate_size": int(sizes["width"] * sizes["mlp_ratio"]),
    }


def image_processor_from_original(stored: dict[str, Any], config: dict[str, Any]) -> DeepseekVL2ImageProcessor:
    """The image processor of processor_config.json (`stored`).

    Raises:
        ValueError: it does not normalize, or its candidates are not those of config.json.
    """
    check_values(stored, {"normalize": True}, PROCESSOR)
    side = _vision_config(section(config, "vision_config"))["image_size"]
    candidates = section(config, "candidate_resolutions")
    check_values(stored, {"candidate_resolutions": candidates}, PROCESSOR)
    check_candidates(candidates, side)
    defaults = DeepseekVL2ImageProcessor
    return DeepseekVL2ImageProcessor(
        size={"height": side, "width": side},
        candidate_resolutions=[list(pair) for pair in candidates],
        image_mean=list(stored.get("image_mean", defaults.image_mean)),
        image_std=list(stored.get("image_std", defaults.image_std)),
    )


def processor_settings(stored: dict[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """The processor's arguments from processor_config.json.

    Raises:
        ValueError: another chat format or other sizes than the model's.
    """
    sizes = {
        "patch_size": config.vision_config.patch_size,
        "downsample_ratio": config.projector_config.downsample_ratio,
    }
    check_values(stored, {**sizes, "sft_format": "deepseek", "add_special_token": False}, PROCESSOR)
    return sizes


def config_to_original(config: PreTrainedConfig, images: DeepseekVL2ImageProcessor) -> dict[str, Any]:
    """The way back of `config_from_original`."""
    text, vision = config.text_config, config.vision_config
    dtype = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    return {
        "candidate_resolutions": [list(pair) for pair in images.candidate_resolutions],
        "global_view_pos": "head",
        "tile_tag": "2D",
        "model_type": MODEL_TYPE,
        "torch_dtype": dtype,
        "language_config": language_section(text, dtype),
        "projector_config": {
            **differing({"downsample_ratio": config.projector_config.downsample_ratio}, {"downsample_ratio": 2}),
            **differing({"input_dim": vision.hidden_size}, {"input_dim": PRESET["width"]}),
            "model_type": "mlp_projector",
            "n_embed": text.hidden_size,
        },
        "vision_config": {
            **differing({name: getattr(vision, field) for name, field in FIELDS.items()}, PRESET),
            "mlp_ratio": _mlp_ratio(vision),
            "model_name": TOWER,
            "model_type": "vision",
        },
    }


def _mlp_ratio(vision: PreTrainedConfig) -> float:
    """The published ratio where it gives the width of the MLP, else one that does."""
    published = PRESET["mlp_ratio"]
    if int(vision.hidden_size * published) == vision.intermediate_size:
        return published
    return (vision.intermediate_size + 0.5) / vision.hidden_size


def image_processor_to_original(images: DeepseekVL2ImageProcessor) -> dict[str, Any]:
    """The part of processor_config.json that speaks of pictures."""
    return {
        "candidate_resolutions": [list(pair) for pair in images.candidate_resolutions],
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "normalize": True,
    }


def processor_section(processor: ProcessorMixin) -> dict[str, Any]:
    """The rest of processor_config.json."""
    return {
        "add_special_token": False,
        "downsample_ratio": processor.downsample_ratio,
        "ignore_id": -100,
        "image_token": processor.image_token,
        "mask_prompt": False,
        "pad_token": processor.tokenizer.pad_token,
        "patch_size": processor.patch_size,
        "processor_class": "DeepseekVLV2Processor",
        "sft_format": "deepseek",
    }


FORMAT = OriginalFormat(
    description=f"DeepSeek-VL2: model_type {MODEL_TYPE!r}",
    model_type=MODEL_TYPE,
    prompts=PROMPTS,
    family=DEEPSEEK_VL2,
    rules=RULES,
    describes=lambda config: config.get("model_type") == MODEL_TYPE,
    read_config=config_from_original,
    images_file=PROCESSOR,
    read_image_processor=image_processor_from_original,
    read_processor=processor_settings,
    write_config=config_to_original,
    write_image_processor=image_processor_to_original,
    write_processor=processor_section,
    stored_shapes=stored_shapes,
)
