"""Configuration of DeepSeek-VL with one vision tower."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from ...pictures.sizes import num_grid_tokens
from ..family_config import FamilyConfig
from ..sub_configs import SIGLIP_LARGE_PATCH16_384, resolve_sub_config

# The text model of the published 1.3B checkpoints.
PUBLISHED_TEXT_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 102400,
    "max_position_embeddings": 16384,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "pad_token_id": 100001,
}


@strict
class DeepseekVLConfig(FamilyConfig):
    """Configuration of `DeepseekVLModel` and `DeepseekVLForConditionalGeneration`.

    Fields and file format are those of transformers' own `deepseek_vl`, so a checkpoint saved by either opens in the
    other. One default differs: here `lm_head` is not tied to the token embedding, as in the published weights.

    Args:
        text_config: the Llama model (Llama paper, arXiv 2302.13971); absent means the published 1.3B sizes.
        vision_config: the SigLIP tower (arXiv 2303.15343); absent means SigLIP-L/16 at 384 pixels.
        image_token_id: id of the token that stands for one image token in `input_ids`.
        tie_word_embeddings: whether `lm_head` shares the token embedding's weight.

    Raises:
        TypeError, ValueError: a part is no config or dict, or of another `model_type` than SigLIP or Llama.
    """

    model_type = "deepseek_vl"
    keys_to_ignore_at_inference = ["cache", "past_key_values", "image_outputs"]
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    # A config, a dict or None when given; a config once the object exists. resolve_sub_config checks the type.
    text_config: Any = None
    vision_config: Any = None
    image_token_id: int = 100015
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Builds the configs of the parts before transformers reads them."""
        self.text_config = resolve_sub_config(self.text_config, "text_config", PUBLISHED_TEXT_CONFIG, ("llama",))
        self.vision_config = resolve_sub_config(
            self.vision_config, "vision_config", SIGLIP_LARGE_PATCH16_384, ("siglip_vision_model",)
        )
        super().__post_init__(**kwargs)

    @property
    def fewest_image_tokens(self) -> int:
        """Places of an image, all of which have the same size."""
        return num_grid_tokens(self.vision_config.image_size, self.vision_config.patch_size)
