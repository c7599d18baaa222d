"""DeepSeek-VL2 tiny twice: this package's, and one put together of transformers' classes, with the same weights.

transformers has no DeepSeek-VL2. What stands for it:

- the tower: `SiglipVisionModel` without its head;
- the language model: the one of `DeepseekOcr2ForConditionalGeneration`, which has plain multi-head attention and a
  DeepSeek-MoE as tiny does (that of `deepseek_v2` has latent attention alone), with its `generate`, cache and default
  implementation of experts;
- projector, joining of tiles and processor: transformers has none. The projector is this package's on both sides, and
  so is the processor; tiles are joined here.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, SiglipVisionModel
from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2Config, DeepseekOcr2TextConfig
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import DeepseekOcr2ForConditionalGeneration

from deepseek_vl_hf import (
    DeepseekVL2Config,
    DeepseekVL2ForConditionalGeneration,
    DeepseekVL2ImageProcessor,
    DeepseekVL2Processor,
)
from deepseek_vl_hf.models.deepseek_vl2.modeling_deepseek_vl2 import DeepseekVL2Projector
from deepseek_vl_hf.models.deepseek_vl2.tiling import num_tiles
from port import OURS, PORT, TOKENIZERS, Implementation, build, draw_scaled_weights

TOKENIZER = TOKENIZERS / "vl2_mha" / "checkpoint"
# Of our text config, what transformers' has under the same name.
SHARED_FIELDS = (
    *("hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("vocab_size", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "topk_method", "n_group"),
    *("topk_group", "routed_scaling_factor", "rms_norm_eps", "max_position_embeddings", "rope_parameters"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)


class ComposedVL2(DeepseekOcr2ForConditionalGeneration):
    """transformers' parts in the order of DeepSeek-VL2; names of weights are those of this package."""

    def __init__(self, config: DeepseekVL2Config) -> None:
        text, width = config.text_config, config.text_config.hidden_size
        dense = min(text.first_k_dense_replace, text.num_hidden_layers)
        layers = ["dense"] * dense + ["sparse"] * (text.num_hidden_layers - dense)
        fields = {name: getattr(text, name) for name in SHARED_FIELDS}
        super().__init__(DeepseekOcr2Config(text_config=DeepseekOcr2TextConfig(mlp_layer_types=layers, **fields)))
        del self.model.vision_tower, self.model.multi_modal_projector
        self.model.vision_model = SiglipVisionModel(config.vision_config)
        self.model.projector = DeepseekVL2Projector(config)
        self.model.image_newline = nn.Parameter(torch.empty(width))
        self.image_token_id, self.side = config.image_token_id, config.tokens_per_side

    def get_image_features(self, pixel_values: torch.Tensor, tile_grids: Any, **_: Any) -> list[torch.Tensor]:
        """[tiles, 3, 384, 384] and [images, 2] -> [tokens, hidden] for each image."""
        tiles = self.model.projector(self.model.vision_model(pixel_values).last_hidden_state)
        grids = [(int(columns), int(rows)) for columns, rows in tile_grids]
        parts = tiles.split([num_tiles(*grid) for grid in grids])
        return [self.joined(*pair) for pair in zip(parts, grids, strict=True)]

    def joined(self, tiles: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """[1 + columns * rows, tokens of a tile, hidden] -> [tokens of the image, hidden]."""
        columns, rows = grid
        whole = tiles[0].view(self.side, self.side, -1)
        pieces = tiles[1:].view(rows, columns, self.side, self.side, -1).transpose(1, 2)
        enlarged = pieces.reshape(rows * self.side, columns * self.side, -1)
        newline = self.model.image_newline
        lines = [torch.cat([view, newline.expand(len(view), 1, -1)], 1).flatten(0, 1) for view in (whole, enlarged)]
        return torch.cat([lines[0], self.model.view_separator[None], lines[1]])

    def generate(
        self, input_ids: torch.Tensor, pixel_values: Any = None, tile_grids: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        """The library's `generate`, after embeddings that images were put into."""
        if pixel_values is None:
            return super().generate(input_ids=input_ids, **kwargs)
        embeddings = self.get_input_embeddings()(input_ids)
        embeddings[input_ids == self.image_token_id] = torch.cat(self.get_image_features(pixel_values, tile_grids))
        return super().generate(inputs_embeds=embeddings, **kwargs)


def implementations(layers: int, dtype: torch.dtype) -> dict[str, Implementation]:
    """Both at the published sizes, with random weights that they share.

    Args:
        layers: of the language model; the published one has 12, and the first has no experts.
        dtype: of the weights.
    """
    config = DeepseekVL2Config()
    config.text_config.num_hidden_layers = layers
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    processor = DeepseekVL2Processor(DeepseekVL2ImageProcessor(), tokenizer)
    config.image_token_id = processor.image_token_id
    torch.manual_seed(0)
    ours = build(DeepseekVL2ForConditionalGeneration, config, dtype)
    draw_scaled_weights(ours)
    port = build(ComposedVL2, config, dtype, ours)
    return {OURS: Implementation(ours, processor), PORT: Implementation(port, processor)}
