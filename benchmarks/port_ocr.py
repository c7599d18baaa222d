"""DeepSeek-OCR twice: this package's towers and those of transformers' `unlimited_ocr`, with the same weights.

transformers has no DeepSeek-OCR. The model that it calls Unlimited-OCR sees with the same SAM, convolutions, CLIP and
projector; its language model differs (it forgets all but the last 128 tokens of its own answer), so only what comes
before it is compared.
"""

from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.models.unlimited_ocr.configuration_unlimited_ocr import UnlimitedOcrConfig, UnlimitedOcrTextConfig
from transformers.models.unlimited_ocr.modeling_unlimited_ocr import UnlimitedOcrModel

from deepseek_vl_hf import (
    DeepseekOCRConfig,
    DeepseekOCRForConditionalGeneration,
    DeepseekOCRImageProcessor,
    DeepseekOCRProcessor,
)
from deepseek_vl_hf.models.deepseek_ocr.image_inputs import checked_images
from deepseek_vl_hf.models.deepseek_ocr.views import num_tiles
from port import DEVICE, OURS, PORT, TOKENIZERS, Implementation, build, draw_scaled_weights

TOKENIZER = TOKENIZERS / "deepseek_ocr" / "checkpoint"
# Beginnings of names here, and there.
NAMES = {
    "high_res_vision_model.vision_encoder.": "vision_tower.sam_encoder.",
    "high_res_vision_proj.": "vision_tower.sam_encoder.proj.",
    "vision_model.": "vision_tower.vision_encoder.",
    "projector.": "multi_modal_projector.",
    "image_newline": "image_newline",
    "view_separator": "view_separator",
}


class UnlimitedOcr(UnlimitedOcrModel):
    """transformers' model, called as ours is."""

    def __init__(self, config: DeepseekOCRConfig) -> None:
        width = config.text_config.hidden_size
        text = UnlimitedOcrTextConfig(hidden_size=width, num_hidden_layers=0, vocab_size=1)
        super().__init__(UnlimitedOcrConfig(text_config=text))
        del self.language_model

    def get_image_features(
        self, pixel_values: torch.Tensor, tile_grids: Any, tile_pixel_values: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Arguments and result as of `DeepseekOCRModel.get_image_features`."""
        images = checked_images(pixel_values, tile_grids, tile_pixel_values)
        counts = [num_tiles(*grid) for grid in images.grids] if images else []
        return super().get_image_features(pixel_values, tile_pixel_values, counts, tile_grids.tolist(), **kwargs)


def ours(layers: int, dtype: torch.dtype) -> Implementation:
    """This package's model at the published sizes, with random weights, and its processor.

    Args:
        layers: of the language model; the published one has 12, and the first has no experts.
        dtype: of the weights.
    """
    config = DeepseekOCRConfig()
    config.text_config.num_hidden_layers = layers
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    processor = DeepseekOCRProcessor(DeepseekOCRImageProcessor(), tokenizer)
    config.image_token_id = processor.image_token_id
    torch.manual_seed(0)
    model = build(DeepseekOCRForConditionalGeneration, config, dtype)
    draw_scaled_weights(model)
    with torch.no_grad():  # no answer ends, and none has tokens that the tokenizer at hand does not know
        model.lm_head.weight[len(tokenizer) :] = 0
        model.lm_head.weight[tokenizer.eos_token_id] = 0
    return Implementation(model, processor)


def implementations(dtype: torch.dtype) -> dict[str, Implementation]:
    """Both without language models; the second one has no processor."""
    mine = ours(0, dtype)
    weights = {_their_name(name): value for name, value in mine.model.model.state_dict().items() if _is_shared(name)}
    with torch.device("meta"):
        port = UnlimitedOcr(mine.model.config).to(dtype)
    port.load_state_dict(weights, assign=True, strict=True)
    places = port.vision_tower.vision_encoder.embeddings
    places.register_buffer("position_ids", torch.arange(places.position_ids.shape[-1])[None].to(DEVICE), False)
    return {OURS: Implementation(mine.model, mine.processor), PORT: Implementation(port.eval(), None)}


def _is_shared(name: str) -> bool:
    return any(name.startswith(prefix) for prefix in NAMES)


def _their_name(name: str) -> str:
    prefix = next(prefix for prefix in NAMES if name.startswith(prefix))
    return NAMES[prefix] + name.removeprefix(prefix)
