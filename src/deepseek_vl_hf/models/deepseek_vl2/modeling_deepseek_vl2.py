"""DeepSeek-VL2 (arXiv 2412.10302): tiles of each image, and a language model with experts.

pixel_values [tiles, 3, 384, 384], tile_grids [images, 2]
  --vision_model (SigLIP)-->     [tiles, 729, 1152]      27 x 27 patches
  --projector-->                 [tiles, 196, hidden]    14 x 14 tokens
  --join the tiles of an image--> one [tokens, hidden] per image   get_image_features(...).pooler_output
input_ids [batch, sequence]
  --embed_tokens-->              [batch, sequence, hidden]   as many image places per image as it has tokens
  --insert image embeddings-->   [batch, sequence, hidden]
  --language_model-->            [batch, sequence, hidden]
  --lm_head-->                   [batch, kept positions, vocabulary]

The tiles of all images of a batch lie one after the other: of each image the view of the whole first, then its tiles
row by row. `tile_grids` holds columns and rows of each image, so image i has 1 + columns * rows tiles.
"""

from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from ...hf.layers import init
from ...hf.offload import resident
from ...hf.outputs import MultimodalCausalLMOutputWithPast, MultimodalModelOutputWithPast
from ...hf.versions import CACHE, cache_under_both_names, with_cache
from ..checks import check_none_missing, check_not_encoded_twice, check_pixels
from ..deepseek_moe.engine_model import language_model
from ..deepseek_moe.expert_weights import expert_converters
from ..encoding import encode_distinct, in_chunks
from ..fusion import images_per_prompt
from ..generation import MultimodalGenerationMixin
from ..pretrained import MultimodalPreTrainedModel
from ..steps import embed_inputs, head_output, model_output, with_balance_loss, with_use_cache
from .configuration_deepseek_vl2 import DeepseekVL2Config
from .tiling import num_image_tokens, num_tiles


class DeepseekVL2Projector(nn.Module):
    """Blocks of patches become one token each: concatenation, a linear layer, the exact GELU, a linear layer."""

    def __init__(self, config: DeepseekVL2Config) -> None:
        super().__init__()
        self.block = config.projector_config.downsample_ratio
        self.side = config.vision_config.image_size // config.vision_config.patch_size
        hidden_size = config.text_config.hidden_size
        self.linear1 = nn.Linear(config.vision_config.hidden_size * self.block**2, hidden_size)
        self.act = nn.GELU()
        self.linear2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[tiles, patches, vision width] -> [tiles, tokens, hidden].

        The grid of patches is filled up with zeros at right and bottom. The values of a block are concatenated channel
        by channel: the four places of channel 0, then those of channel 1.
        """
        missing = -self.side % self.block
        grid = functional.pad(features.unflatten(1, (self.side, self.side)), (0, 0, 0, missing, 0, missing))
        # [tiles, rows, block, columns, block, width] -> [tiles, rows, columns, width, block, block]
        blocks = grid.unflatten(2, (-1, self.block)).unflatten(1, (-1, self.block)).permute(0, 1, 3, 5, 2, 4)
        return self.linear2(self.act(self.linear1(blocks.flatten(3).flatten(1, 2))))


class DeepseekVL2PreTrainedModel(MultimodalPreTrainedModel):
    """Config, layers and initialization of the DeepSeek-VL2 models."""

    config: DeepseekVL2Config
    config_class = DeepseekVL2Config
    has_experts = True

    @classmethod
    def stored_conversions(cls) -> list[Any]:
        """Files hold one tensor per expert."""
        return expert_converters()

    def init_own_weights(self, module: nn.Module) -> None:
        """For training from scratch: newline and separator as token embeddings of the same width."""
        if isinstance(module, DeepseekVL2Model):
            for parameter in (module.image_newline, module.view_separator):
                init.normal_(parameter, std=self.config.text_config.hidden_size**-0.5)


class DeepseekVL2Model(DeepseekVL2PreTrainedModel):
    """Tower, projector and language model; the module's docstring shows the flow."""

    def __init__(self, config: DeepseekVL2Config) -> None:
        super().__init__(config)
        self.vision_model = AutoModel.from_config(config.vision_config)
        self.projector = DeepseekVL2Projector(config)
        self.image_newline = nn.Parameter(torch.empty(config.text_config.hidden_size))
        self.view_separator = nn.Parameter(torch.empty(config.text_config.hidden_size))
        self.language_model = language_model(config.text_config)
        self.post_init()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        tile_grids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: [tiles, 3, image_size, image_size], normalized by the image processor; see the module's
                docstring for their order.
            tile_grids: [images, 2], columns and rows of each image.
            **kwargs: `output_hidden_states`, `output_attentions` of the tower; `return_dict`.

        Returns:
            `pooler_output` is a list with [tokens, hidden] for each image, newlines and separator included;
            `last_hidden_state` [tiles, patches, vision width] is the tower's.

        Raises:
            ValueError: one of the two is missing, the tiles are more or fewer than the grids say, or a size is not the
                tower's.
        """
        grids = _checked_grids(pixel_values, tile_grids)
        if pixel_values is None or grids is None:
            raise ValueError("Found no images; pass pixel_values and tile_grids.")
        check_pixels(pixel_values, "pixel_values", self.config.vision_config.image_size)
        vision = self._encode(pixel_values, grids, **kwargs)
        tiles = self.projector(vision.last_hidden_state).split([num_tiles(*grid) for grid in grids])
        return BaseModelOutputWithPooling(
            pooler_output=[self._join(*pair) for pair in zip(tiles, grids, strict=True)],
            last_hidden_state=vision.last_hidden_state,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
        )

    def _encode(
        self, pixel_values: torch.Tensor, grids: list[tuple[int, int]], **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """The tower, each different tile once: the only tile of an untiled image is the view of the whole again."""
        encode = partial(in_chunks, partial(self.vision_model, return_dict=True, **kwargs), size=self.image_batch_size)
        if torch.compiler.is_compiling():
            return encode(pixel_values)
        starts = accumulate((num_tiles(*grid) for grid in grids), initial=0)
        pairs = [(start, start + 1) for start, grid in zip(starts, grids, strict=False) if num_tiles(*grid) == 2]
        return encode_distinct(encode, pixel_values, pairs)

    def check_images(
        self, input_ids: torch.Tensor | None, pixel_values: torch.Tensor | None, tile_grids: torch.Tensor | None
    ) -> None:
        """Raises ValueError unless tiles and grids agree and the places of each prompt are those of whole images.

        The sum of the places says too little: grids in another order may have the same one.
        """
        if torch.compiler.is_compiling():
            return
        grids = _checked_grids(pixel_values, tile_grids)
        if input_ids is None or grids is None:
            return
        lengths = [num_image_tokens(columns, rows, self.config.tokens_per_side) for columns, rows in grids]
        images_per_prompt(lengths, (input_ids == self.config.image_token_id).sum(-1).tolist())

    def _join(self, tiles: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """[1 + columns * rows, tokens of a tile, hidden] -> [tokens of the image, hidden]."""
        columns, rows = grid
        side = self.config.tokens_per_side
        whole, *_ = squares = tiles.unflatten(1, (side, side))
        # [rows, columns, side, side, hidden] -> [rows * side, columns * side, hidden]
        enlarged = squares[1:].unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        separator = resident(self, "view_separator").to(tiles.device)
        return torch.cat([self._with_newlines(whole), separator[None], self._with_newlines(enlarged)])

    def _with_newlines(self, grid: torch.Tensor) -> torch.Tensor:
        """[height, width, hidden] -> [height * (width + 1), hidden]."""
        newline = resident(self, "image_newline").to(grid.device).expand(grid.shape[0], 1, -1)
        return torch.cat([grid, newline], 1).flatten(0, 1)

    @cache_under_both_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        tile_grids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> MultimodalModelOutputWithPast:
        """Runs the model without its head.

        Args:
            input_ids: [batch, sequence].
            pixel_values: [tiles, 3, image_size, image_size], all tiles of the batch.
            tile_grids: [images, 2], columns and rows of each image.
            attention_mask: [batch, past + sequence], 0 at padding.
            position_ids: [batch, sequence].
            cache: that of the tokens before these; `past_key_values` is the same argument.
            inputs_embeds: [batch, sequence, hidden], instead of `input_ids`.
            use_cache: whether to return a cache.
            mm_encoder_outputs: `{"image": get_image_features(...)}` instead of pixels; `generate` encodes images once
                and passes them so.
            **kwargs: for the language model.

        Raises:
            ValueError: image places and image tokens differ in number, or inputs exclude or lack each other.
        """
        image_features = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None or tile_grids is not None:
            check_not_encoded_twice(image_features)
            self.check_images(input_ids, pixel_values, tile_grids)
            image_features = self.get_image_features(pixel_values, tile_grids, return_dict=True)
        inputs_embeds = embed_inputs(self, input_ids, inputs_embeds, image_features, cache)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **with_cache(cache, kwargs),
        )
        return model_output(outputs, image_features)


class DeepseekVL2ForConditionalGeneration(MultimodalGenerationMixin, DeepseekVL2PreTrainedModel):
    """`DeepseekVL2Model` with the language modeling head, which published weights do not tie to the embedding."""

    def __init__(self, config: DeepseekVL2Config) -> None:
        super().__init__(config)
        self.model = DeepseekVL2Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        tile_grids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """See `DeepseekVL2Model.get_image_features`."""
        return self.model.get_image_features(pixel_values, tile_grids, **kwargs)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """See transformers' `init_continuous_batching`.

        Raises:
            ValueError: the model has latent attention; the paged cache has places for heads' keys and values alone, and
                answers would end without a word.
        """
        if self.config.text_config.use_mla:
            raise ValueError("Continuous batching has no cache for latent attention. Use generate.")
        return super().init_continuous_batching(*args, **kwargs)

    def check_image_inputs(self, input_ids: Any, kwargs: dict[str, Any]) -> bool:
        """See `MultimodalGenerationMixin.check_image_inputs`; grids are compared with the prompts' places, too."""
        found = super().check_image_inputs(input_ids, kwargs)
        cache = kwargs.get(CACHE)
        if cache is None or not int(cache.get_seq_length()):  # else images of earlier turns may have been read before
            self.model.check_images(input_ids, kwargs.get("pixel_values"), kwargs.get("tile_grids"))
        return found

    @cache_under_both_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        tile_grids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> MultimodalCausalLMOutputWithPast:
        """Runs the model and its head; arguments beyond these as in `DeepseekVL2Model.forward`.

        Args:
            input_ids: [batch, sequence].
            pixel_values: [tiles, 3, image_size, image_size].
            tile_grids: [images, 2].
            attention_mask: [batch, past + sequence].
            position_ids: [batch, sequence].
            cache: that of the tokens before these; `past_key_values` is the same argument.
            inputs_embeds: [batch, sequence, hidden], instead of `input_ids`.
            labels: [batch, sequence], ids of the tokens themselves (they are shifted here); -100 is left out.
            use_cache: whether to return a cache; without labels the config's `use_cache` is the default.
            logits_to_keep: how many last positions get logits (0: all), a 1-D tensor of positions, or a mask
                [batch, sequence]: logits are then [positions, vocabulary], which training needs of answers alone.
            mm_encoder_outputs: images that were encoded before, instead of pixels.
            **kwargs: for the language model and the loss.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            tile_grids=tile_grids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=with_use_cache(use_cache, labels),
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        output = head_output(self, outputs, labels, logits_to_keep, kwargs)
        return with_balance_loss(self, output, labels, attention_mask, position_ids, kwargs)


def _checked_grids(pixel_values: torch.Tensor | None, tile_grids: Any) -> list[tuple[int, int]] | None:
    """`tile_grids` as pairs; None if there are no images.

    Raises:
        ValueError: one of the two is missing, another shape, a grid without tiles, or other numbers of tiles.
    """
    check_none_missing({"pixel_values": pixel_values, "tile_grids": tile_grids})
    if pixel_values is None:
        return None
    shape = list(torch.as_tensor(tile_grids).shape)
    if len(shape) != 2 or shape[1] != 2:
        raise ValueError(f"tile_grids has the shape {shape}; expected [images, 2], columns and rows of each image.")
    grids = [(int(columns), int(rows)) for columns, rows in torch.as_tensor(tile_grids).tolist()]
    if any(min(grid) < 1 for grid in grids):
        raise ValueError(f"tile_grids is {grids}; expected at least one column and one row for each image.")
    expected = sum(num_tiles(*grid) for grid in grids)
    if expected != len(pixel_values):
        raise ValueError(
            f"pixel_values holds {len(pixel_values)} tiles, but tile_grids {grids} describe {expected}: 1 + columns * "
            "rows for each image. Pass both as the processor gives them."
        )
    return grids
