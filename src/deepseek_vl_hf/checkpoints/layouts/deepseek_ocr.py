"""The original layout of DeepSeek-OCR: tensors, config and processor. There is no preprocessor_config.json.

The language model's fields stand twice in config.json, at the top and in `language_config`. The original reads the
former, engines the latter; files in which they differ are refused.
"""

from typing import Any

from transformers import PreTrainedConfig, ProcessorMixin

from ...conversation.chat_templates import DEEPSEEK_OCR_TEMPLATE, VL2_IMAGE_TOKEN
from ...models.deepseek_moe.expert_weights import stored_shapes
from ...models.deepseek_ocr.configuration_deepseek_ocr import CLIP_LARGE_PATCH14_224, DeepseekOCRConfig
from ...models.deepseek_ocr.image_processing_deepseek_ocr import DeepseekOCRImageProcessor
from ...models.deepseek_ocr.views import PATCH
from ...models.families import DEEPSEEK_OCR
from .config_fields import check_values, checked_dtype, section
from .deepseek_moe import language_section, text_fields
from .files import PROCESSOR
from .formats import OriginalFormat, PromptFormat
from .rules import Drop, Rename, Rule, Split
from .sam import neck_rules, sam_fields, sam_rules, sam_sizes

MODEL_TYPE = "deepseek_vl_v2"  # VL2's, too
# Of copies that were saved again.
RESAVED_MODEL_TYPES = ("DeepseekOCR",)
ARCHITECTURE = "DeepseekOCR"  # with what its names of classes begin, up to OCR-2's
TOWER = "deeplip_b_l"
PROJECTOR_TYPE = "linear"
SAM, CLIP = "vision_config.width.sam_vit_b", "vision_config.width.clip-l-14-224"
# What files do not say.
NECK_WIDTH = 256  # `prompt_embed_dim` beside the sizes overrides it (this project's convention for small models)
MLP_RATIO = 4
SAM_SIDE = 1024  # of the pictures that its stored table of positions is for
# Of `language_config`, what does not stand at the top as well, or means something else there.
ONLY_THERE = {"architectures", "auto_map", "model_type", "torch_dtype"}
# Left over from other models; they change nothing, but files have them.
LEFT_OVER = {"candidate_resolutions": [[1024, 1024]], "global_view_pos": "head", "tile_tag": "2D"}
OF_VISION_LEFT_OVER = {"image_size": 1024, "mlp_ratio": 3.7362}
DOWNSAMPLE_RATIO = 4
CLIP_FIELDS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "image_size": "image_size",
    "patch_size": "patch_size",
}
# The original adds none; they stand in its tokenizer.json.
PROMPTS = PromptFormat(
    chat_template=DEEPSEEK_OCR_TEMPLATE,
    image_token=VL2_IMAGE_TOKEN,
    image_token_key="image_token",
    added_tokens={
        "ref_token": "<|ref|>",
        "ref_end_token": "<|/ref|>",
        "det_token": "<|det|>",
        "det_end_token": "<|/det|>",
        "grounding_token": "<|grounding|>",
    },
    default_vocabulary=102400,
    token_ids={
        129280: {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "image_token_id": 128815},
    },
)

_BLOCK, _LAYER = "model.vision_model.transformer.layers.{layer}", "model.vision_model.encoder.layers.{layer}"
_ATTENTION = f"{_LAYER}.self_attn"
CLIP_RULES: tuple[Rule, ...] = (
    Rename("model.vision_model.embeddings.class_embedding", "model.vision_model.embeddings.class_embedding"),
    Rename(
        "model.vision_model.embeddings.position_embedding.weight",
        "model.vision_model.embeddings.position_embedding.weight",
    ),
    Drop("model.vision_model.embeddings.patch_embedding.weight", "stored but never used; CLIP reads SAM's features"),
    Drop("model.vision_model.embeddings.position_ids", "the numbers from 0 on, in copies that were saved again"),
    Rename("model.vision_model.pre_layrnorm.{kind}", "model.vision_model.pre_layrnorm.{kind}"),
    Rename(f"{_BLOCK}.layer_norm1.{{kind}}", f"{_LAYER}.layer_norm1.{{kind}}"),
    Split(
        f"{_BLOCK}.self_attn.qkv_proj.{{kind}}",
        (f"{_ATTENTION}.q_proj.{{kind}}", f"{_ATTENTION}.k_proj.{{kind}}", f"{_ATTENTION}.v_proj.{{kind}}"),
    ),
    Rename(f"{_BLOCK}.self_attn.out_proj.{{kind}}", f"{_ATTENTION}.out_proj.{{kind}}"),
    Rename(f"{_BLOCK}.layer_norm2.{{kind}}", f"{_LAYER}.layer_norm2.{{kind}}"),
    Rename(f"{_BLOCK}.mlp.{{rest}}", f"{_LAYER}.mlp.{{rest}}"),
)
RULES: tuple[Rule, ...] = (
    *sam_rules("model.sam_model", "model.high_res_vision_model.vision_encoder"),
    *neck_rules("model.sam_model.neck", "model.high_res_vision_model.vision_encoder.neck"),
    Rename("model.sam_model.net_2.weight", "model.high_res_vision_proj.conv1.weight"),
    Rename("model.sam_model.net_3.weight", "model.high_res_vision_proj.conv2.weight"),
    *CLIP_RULES,
    Rename("model.projector.layers.{kind}", "model.projector.{kind}"),
    Rename("model.image_newline", "model.image_newline"),
    Rename("model.view_seperator", "model.view_separator"),
    Rename("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
    Rename("model.layers.{rest}", "model.language_model.layers.{rest}"),
    Rename("model.norm.weight", "model.language_model.norm.weight"),
    Rename("lm_head.weight", "lm_head.weight"),
)


def is_deepseek_ocr(config: dict[str, Any]) -> bool:
    """Whether a config.json is of DeepSeek-OCR, the first one.

    By its architecture; where there is none, by its tower and projector.
    """
    if config.get("model_type") not in (MODEL_TYPE, *RESAVED_MODEL_TYPES) or "text_config" in config:
        return False
    named = config.get("architectures") or ()
    if named:
        return all(name in (f"{ARCHITECTURE}ForCausalLM", f"{ARCHITECTURE}Model") for name in named)
    vision, projector = config.get("vision_config"), config.get("projector_config")
    return (isinstance(vision, dict) and vision.get("model_name") == TOWER) or (
        isinstance(projector, dict) and projector.get("projector_type") == PROJECTOR_TYPE
    )


def config_from_original(config: dict[str, Any], token_ids: dict[str, int]) -> DeepseekOCRConfig:
    """Maps an original config.json.

    Args:
        config: the file's content.
        token_ids: `image_token_id`, `bos_token_id`, `eos_token_id` and `pad_token_id` of the tokenizer.

    Raises:
        ValueError: a tower, projector or language model that this model does not have, or two of the latter.
    """
    language = section(config, "language_config")
    check_values(config, {key: value for key, value in language.items() if key not in ONLY_THERE}, "config.json")
    text = text_fields(language, token_ids)
    check_values(section(config, "vision_config"), {"model_name": TOWER, "model_type": "vision"}, "vision_config")
    _read_left_overs(config)
    sam, clip = _sam_sizes(section(config, SAM)), _clip_config(section(config, CLIP))
    expected = {
        "model_type": "mlp_projector",
        "projector_type": PROJECTOR_TYPE,
        "input_dim": 2 * clip["hidden_size"],
        "n_embed": text["hidden_size"],
    }
    check_values(section(config, "projector_config"), expected, "projector_config")
    return DeepseekOCRConfig(
        text_config=text,
        vision_config=clip,
        high_res_vision_config={**sam_fields(sam), "image_size": SAM_SIDE},
        downsample_channels=section(config, f"{SAM}.downsample_channels"),
        image_token_id=token_ids["image_token_id"],
        dtype=checked_dtype(config) or text["dtype"],
        tie_word_embeddings=text.get("tie_word_embeddings", False),
        architectures=["DeepseekOCRForConditionalGeneration"],
    )


def _read_left_overs(config: dict[str, Any]) -> None:
    for key in LEFT_OVER:
        config.get(key)
    for key in OF_VISION_LEFT_OVER:
        config["vision_config"].get(key)


def _sam_sizes(sizes: dict[str, Any]) -> dict[str, Any]:
    named = {name: section(sizes, name) for name in ("width", "layers", "heads", "global_attn_indexes")}
    return {**named, "prompt_embed_dim": sizes.get("prompt_embed_dim", NECK_WIDTH)}


def _clip_config(sizes: dict[str, Any]) -> dict[str, Any]:
    fields = {field: section(sizes, name) for name, field in CLIP_FIELDS.items()}
    return {**CLIP_LARGE_PATCH14_224, **fields, "intermediate_size": MLP_RATIO * fields["hidden_size"]}


def image_processor_from_original(stored: dict[str, Any], config: dict[str, Any]) -> DeepseekOCRImageProcessor:
    """The image processor of processor_config.json (`stored`).

    Raises:
        ValueError: it does not normalize.
    """
    check_values(stored, {"normalize": True, "patch_size": PATCH, "downsample_ratio": DOWNSAMPLE_RATIO}, PROCESSOR)
    stored.get("candidate_resolutions")  # left over
    defaults = DeepseekOCRImageProcessor
    return DeepseekOCRImageProcessor(
        image_mean=list(stored.get("image_mean", defaults.image_mean)),
        image_std=list(stored.get("image_std", defaults.image_std)),
    )


def processor_settings(stored: dict[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """The processor's arguments from processor_config.json: none.

    Raises:
        ValueError: tokens are added that the original does not add.
    """
    check_values(stored, {"add_special_token": False}, PROCESSOR)
    stored.get("sft_format")  # left over: prompts have no format
    return {}


def config_to_original(config: PreTrainedConfig, images: DeepseekOCRImageProcessor) -> dict[str, Any]:
    """The way back of `config_from_original`."""
    dtype = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    language = language_section(config.text_config, dtype)
    language.pop("model_type")
    sam = {**sam_sizes(config.high_res_vision_config), "downsample_channels": list(config.downsample_channels)}
    if sam["prompt_embed_dim"] == NECK_WIDTH:
        sam.pop("prompt_embed_dim")
    return {
        **LEFT_OVER,
        **{key: value for key, value in language.items() if key not in ONLY_THERE},
        "architectures": [f"{ARCHITECTURE}ForCausalLM"],
        "model_type": MODEL_TYPE,
        "torch_dtype": dtype,
        "language_config": language,
        "projector_config": {
            "input_dim": 2 * config.vision_config.hidden_size,
            "model_type": "mlp_projector",
            "n_embed": config.text_config.hidden_size,
            "projector_type": PROJECTOR_TYPE,
        },
        "vision_config": {
            **OF_VISION_LEFT_OVER,
            "model_name": TOWER,
            "model_type": "vision",
            "width": {
                "clip-l-14-224": {name: getattr(config.vision_config, field) for name, field in CLIP_FIELDS.items()},
                "sam_vit_b": sam,
            },
        },
    }


def image_processor_to_original(images: DeepseekOCRImageProcessor) -> dict[str, Any]:
    """The part of processor_config.json that speaks of pictures."""
    return {
        "candidate_resolutions": LEFT_OVER["candidate_resolutions"],
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "normalize": True,
    }


def processor_section(processor: ProcessorMixin) -> dict[str, Any]:
    """The rest of processor_config.json."""
    return {
        "add_special_token": False,
        "downsample_ratio": DOWNSAMPLE_RATIO,
        "ignore_id": -100,
        "image_token": processor.image_token,
        "mask_prompt": False,
        "pad_token": processor.tokenizer.pad_token,
        "patch_size": PATCH,
        "processor_class": "DeepseekVLV2Processor",
        "sft_format": "deepseek",
    }


FORMAT = OriginalFormat(
    description=f"DeepSeek-OCR: model_type {MODEL_TYPE!r}, architecture '{ARCHITECTURE}ForCausalLM'",
    model_type=MODEL_TYPE,
    prompts=PROMPTS,
    family=DEEPSEEK_OCR,
    rules=RULES,
    describes=is_deepseek_ocr,
    read_config=config_from_original,
    images_file=PROCESSOR,
    read_image_processor=image_processor_from_original,
    read_processor=processor_settings,
    write_config=config_to_original,
    write_image_processor=image_processor_to_original,
    write_processor=processor_section,
    stored_shapes=stored_shapes,
)
