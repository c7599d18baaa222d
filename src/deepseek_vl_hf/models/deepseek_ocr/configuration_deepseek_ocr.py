"""Configuration of DeepSeek-OCR."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from ...kinds import is_whole
from ..deepseek_moe.configuration_deepseek_moe import DeepseekMoeConfig
from ..family_config import FamilyConfig
from ..sam import check_sam_config
from ..sub_configs import resolve_sub_config
from .views import MODES, NO_TILES, PATCH, num_image_tokens

MOST_CHANNELS = 2**17

# CLIP-L/14: a table of 16 x 16 positions.
CLIP_LARGE_PATCH14_224: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}

# SAM-B with a table of 64 x 64 positions: what transformers' SamVisionConfig says by itself.
PUBLISHED_HIGH_RES_VISION_CONFIG: dict[str, Any] = {"model_type": "sam_vision_model"}

# The published text model: DeepSeek-VL2 tiny's sizes, trained on longer sequences.
PUBLISHED_TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "moe_intermediate_size": 896,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "vocab_size": 129280,
    "max_position_embeddings": 8192,
    "use_mla": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


@strict
class DeepseekOCRConfig(FamilyConfig):
    """Configuration of `DeepseekOCRModel` and `DeepseekOCRForConditionalGeneration`.

    Args:
        text_config: the language model; absent means the published sizes.
        vision_config: CLIP (arXiv 2103.00020), which reads SAM's features; absent means CLIP-L/14.
        high_res_vision_config: SAM's encoder (arXiv 2304.02643); absent means SAM-B at 1024 pixels.
        downsample_channels: channels after each of the two convolutions that make SAM's grid smaller; the second is
            CLIP's width.
        image_token_id: id of the token that stands for one image token in `input_ids`.
        tie_word_embeddings: whether `lm_head` shares the token embedding's weight.

    Raises:
        TypeError, ValueError: a part is no config or dict, of another `model_type`, or of sizes that do not fit
            together.
    """

    model_type = "deepseek_ocr"
    keys_to_ignore_at_inference = ["cache", "past_key_values", "image_outputs"]
    sub_configs = {
        "text_config": DeepseekMoeConfig,
        "vision_config": AutoConfig,
        "high_res_vision_config": AutoConfig,
    }

    # A config, a dict or None when given; a config once the object exists. resolve_sub_config checks the type.
    text_config: Any = None
    vision_config: Any = None
    high_res_vision_config: Any = None
    downsample_channels: list[int] | tuple[int, ...] = (512, 1024)
    image_token_id: int = 128815
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Builds the configs of the parts before transformers reads them."""
        self.text_config = resolve_sub_config(self.text_config, "text_config", PUBLISHED_TEXT_CONFIG, DeepseekMoeConfig)
        self.vision_config = resolve_sub_config(
            self.vision_config, "vision_config", CLIP_LARGE_PATCH14_224, ("clip_vision_model",)
        )
        self.high_res_vision_config = resolve_sub_config(
            self.high_res_vision_config,
            "high_res_vision_config",
            PUBLISHED_HIGH_RES_VISION_CONFIG,
            ("sam_vision_model",),
        )
        check_sam_config(self.high_res_vision_config)
        self._check_towers()
        super().__post_init__(**kwargs)

    def _check_towers(self) -> None:
        high, low = self.high_res_vision_config, self.vision_config
        if high.patch_size != PATCH:
            raise ValueError(f"high_res_vision_config.patch_size is {high.patch_size}; expected {PATCH}.")
        channels = self.downsample_channels
        if len(channels) != 2 or not all(is_whole(count, 1, MOST_CHANNELS) for count in channels):
            raise ValueError(f"downsample_channels is {channels!r}; expected two whole numbers, such as [512, 1024].")
        if low.hidden_size != channels[1]:
            raise ValueError(
                f"vision_config.hidden_size is {low.hidden_size}; expected {channels[1]}, the last of "
                "downsample_channels, because CLIP reads SAM's features."
            )

    @property
    def fewest_image_tokens(self) -> int:
        """Places of the smallest view of a picture."""
        return min(num_image_tokens(NO_TILES, mode.side, None) for mode in MODES.values())
