"""Configuration of DeepSeek-VL2."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from ..deepseek_moe.configuration_deepseek_moe import DeepseekMoeConfig
from ..family_config import FamilyConfig
from ..sub_configs import resolve_sub_config
from .tiling import grid_side, num_image_tokens

# SigLIP-so400m/14 at 384 pixels, as DeepSeek-VL2 uses it: the tanh approximation of GELU, no pooling head.
SIGLIP_SO400M_PATCH14_384: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": False,
}

# The text model of the published tiny checkpoint.
PUBLISHED_TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "moe_intermediate_size": 896,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "vocab_size": 129280,
    "use_mla": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


@strict
class DeepseekVL2ProjectorConfig(PreTrainedConfig):
    """Configuration of the projector; its widths are those of tower and text model.

    Args:
        downsample_ratio: side of the block of patches that becomes one token.
    """

    model_type = "deepseek_vl2_projector"
    downsample_ratio: int = 2


@strict
class DeepseekVL2Config(FamilyConfig):
    """Configuration of `DeepseekVL2Model` and `DeepseekVL2ForConditionalGeneration`.

    Args:
        text_config: the language model; absent means the published tiny sizes.
        vision_config: the SigLIP tower (arXiv 2303.15343); absent means SigLIP-so400m/14 at 384 pixels.
        projector_config: the projector; absent means blocks of 2 x 2 patches.
        image_token_id: id of the token that stands for one image token in `input_ids`.
        tie_word_embeddings: whether `lm_head` shares the token embedding's weight.

    Raises:
        TypeError, ValueError: a part is no config or dict, or of another `model_type`.
    """

    model_type = "deepseek_vl2"
    keys_to_ignore_at_inference = ["cache", "past_key_values", "image_outputs"]
    sub_configs = {
        "text_config": DeepseekMoeConfig,
        "vision_config": AutoConfig,
        "projector_config": DeepseekVL2ProjectorConfig,
    }

    # A config, a dict or None when given; a config once the object exists. resolve_sub_config checks the type.
    text_config: Any = None
    vision_config: Any = None
    projector_config: Any = None
    image_token_id: int = 128815
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Builds the configs of the parts before transformers reads them."""
        self.text_config = resolve_sub_config(self.text_config, "text_config", PUBLISHED_TEXT_CONFIG, DeepseekMoeConfig)
        self.vision_config = resolve_sub_config(
            self.vision_config, "vision_config", SIGLIP_SO400M_PATCH14_384, ("siglip_vision_model",)
        )
        self.projector_config = resolve_sub_config(
            self.projector_config, "projector_config", {}, DeepseekVL2ProjectorConfig
        )
        super().__post_init__(**kwargs)

    @property
    def tokens_per_side(self) -> int:
        """Tokens along the edge of a tile."""
        vision = self.vision_config
        return grid_side(vision.image_size, vision.patch_size, self.projector_config.downsample_ratio)

    @property
    def fewest_image_tokens(self) -> int:
        """Places of the smallest image: the whole and one tile."""
        return num_image_tokens(1, 1, self.tokens_per_side)
