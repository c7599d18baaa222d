"""DeepSeek-OCR (arXiv 2510.18234): SAM and CLIP one after the other, and a language model with experts.

pixel_values [images, 3, side, side]; tile_pixel_values [tiles, 3, tile, tile], tile_grids [images, 2]
  --high_res_vision_model (SAM)-->      [views, 256, side / 16, side / 16]
  --high_res_vision_proj-->             [views, 1024, grid, grid]     grid = side / 64
  --vision_model (CLIP)-->              [views, grid * grid, 1024]
  --projector on CLIP and SAM-->        [views, grid * grid, hidden]
  --join the views of an image-->       one [tokens, hidden] per image   get_image_features(...).pooler_output
input_ids [batch, sequence]
  --embed_tokens-->              [batch, sequence, hidden]   as many image places per image as it has tokens
  --insert image embeddings-->   [batch, sequence, hidden]
  --language_model-->            [batch, sequence, hidden]
  --lm_head-->                   [batch, kept positions, vocabulary]

`pixel_values` holds the view of the whole of each image. The tiles of all images of a batch lie one after the other in
`tile_pixel_values`, row by row of each image; `tile_grids` holds columns and rows of each image, (1, 1) for one without
tiles. Tiles come first in an image's tokens, then the whole, each row with a newline, and a separator at the end.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from ...hf.layers import init
from ...hf.offload import resident
from ...hf.outputs import MultimodalCausalLMOutputWithPast, MultimodalModelOutputWithPast
from ...hf.versions import CACHE, cache_under_both_names, with_cache
from ..checks import check_not_encoded_twice
from ..deepseek_moe.engine_model import language_model
from ..deepseek_moe.expert_weights import expert_converters
from ..encoding import in_chunks
from ..fusion import images_per_prompt
from ..generation import MultimodalGenerationMixin
from ..pretrained import MultimodalPreTrainedModel
from ..sam import SamEncoder
from ..steps import embed_inputs, head_output, model_output, with_balance_loss, with_use_cache
from .clip import ClipFeatureEncoder
from .configuration_deepseek_ocr import DeepseekOCRConfig
from .image_inputs import ImageInputs, checked_images
from .views import NO_TILES, num_tiles

# As the original's `infer` reads pages, where a checkpoint says nothing else: the likeliest token each time, up to so
# many, and no n-gram of this size twice.
GENERATION = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 8192, "no_repeat_ngram_size": 20}


class DeepseekOCRReduction(nn.Module):
    """Two convolutions of stride 2 after SAM, with nothing between them."""

    def __init__(self, config: DeepseekOCRConfig) -> None:
        super().__init__()
        first, second = config.downsample_channels
        channels = config.high_res_vision_config.output_channels
        self.conv1 = nn.Conv2d(channels, first, kernel_size=3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(first, second, kernel_size=3, stride=2, padding=1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[views, SAM channels, SAM grid, SAM grid] -> [views, CLIP width, grid, grid]."""
        return self.conv2(self.conv1(features))


class DeepseekOCRPreTrainedModel(MultimodalPreTrainedModel):
    """Config, layers and initialization of the DeepSeek-OCR models."""

    config: DeepseekOCRConfig
    config_class = DeepseekOCRConfig
    has_experts = True

    @classmethod
    def stored_conversions(cls) -> list[Any]:
        """Files hold one tensor per expert."""
        return expert_converters()

    def init_own_weights(self, module: nn.Module) -> None:
        """For training from scratch: newline and separator as token embeddings of the same width."""
        if isinstance(module, DeepseekOCRModel):
            for parameter in (module.image_newline, module.view_separator):
                init.normal_(parameter, std=self.config.text_config.hidden_size**-0.5)


class DeepseekOCRModel(DeepseekOCRPreTrainedModel):
    """Towers, projector and language model; the module's docstring shows the flow."""

    def __init__(self, config: DeepseekOCRConfig) -> None:
        super().__init__(config)
        width, hidden_size = config.vision_config.hidden_size, config.text_config.hidden_size
        self.high_res_vision_model = SamEncoder(config.high_res_vision_config)
        self.high_res_vision_proj = DeepseekOCRReduction(config)
        self.vision_model = ClipFeatureEncoder(config.vision_config)
        self.projector = nn.Linear(2 * width, hidden_size)
        self.image_newline = nn.Parameter(torch.empty(hidden_size))
        self.view_separator = nn.Parameter(torch.empty(hidden_size))
        self.language_model = language_model(config.text_config)
        self.post_init()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        tile_grids: torch.Tensor | None = None,
        tile_pixel_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: [images, 3, side, side], the views of the whole, normalized by the image processor.
            tile_grids: [images, 2], columns and rows of each image; (1, 1) for one without tiles.
            tile_pixel_values: [tiles, 3, tile, tile]; see the module's docstring for their order.
            **kwargs: `output_hidden_states` of CLIP for the views of the whole; `return_dict`.

        Returns:
            `pooler_output` is a list with [tokens, hidden] for each image, newlines and separator included;
            `last_hidden_state` [images, grid * grid, vision width] is CLIP's, of the wholes.

        Raises:
            ValueError: an input is missing, the tiles are more or fewer than the grids say, or a side is no multiple of
                what a token covers.
        """
        images = checked_images(pixel_values, tile_grids, tile_pixel_values)
        if images is None:
            raise ValueError("Found no images; pass pixel_values and tile_grids.")
        wholes, states = self._encode(images.pixel_values, **kwargs)
        counts = [num_tiles(*grid) for grid in images.grids]
        tiles: list[Any] = [None] * len(counts)
        if images.tile_pixel_values is not None:
            encoded, _ = self._encode(images.tile_pixel_values)
            tiles = list(self.projector(encoded).split(counts))
        projected = self.projector(wholes)
        return BaseModelOutputWithPooling(
            pooler_output=[self._join(*views) for views in zip(projected, tiles, images.grids, strict=True)],
            last_hidden_state=wholes[..., : self.config.vision_config.hidden_size],
            hidden_states=states,
        )

    def _encode(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """[views, 3, side, side] -> [views, grid * grid, 2 * width], and CLIP's states on request."""
        encode = partial(self._encode_chunk, output_hidden_states=bool(output_hidden_states))
        features, *states = in_chunks(encode, pixel_values, self.image_batch_size)
        return features, tuple(states) or None

    def _encode_chunk(self, pixel_values: torch.Tensor, output_hidden_states: bool) -> tuple[torch.Tensor, ...]:
        high = self.high_res_vision_proj(self.high_res_vision_model(pixel_values).last_hidden_state)
        states = self.vision_model(high, output_hidden_states)
        low = states[-1][:, 1:]
        joined = torch.cat([low, high.flatten(2).transpose(1, 2).to(low.device)], -1)
        return (joined, *states) if output_hidden_states else (joined,)

    def check_images(
        self,
        input_ids: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        tile_grids: torch.Tensor | None,
        tile_pixel_values: torch.Tensor | None,
    ) -> None:
        """Raises ValueError unless views and grids agree and the places of each prompt are those of whole images.

        The sum of the places says too little: grids in another order may have the same one.
        """
        if torch.compiler.is_compiling():
            return
        images = checked_images(pixel_values, tile_grids, tile_pixel_values)
        if input_ids is None or images is None:
            return
        images_per_prompt(images.lengths(), (input_ids == self.config.image_token_id).sum(-1).tolist())

    def _join(self, whole: torch.Tensor, tiles: torch.Tensor | None, grid: tuple[int, int]) -> torch.Tensor:
        """[tokens of the whole, hidden] and [tiles, tokens of a tile, hidden] -> [tokens of the image, hidden]."""
        separator = resident(self, "view_separator").to(whole.device)[None]
        rows = [self._with_newlines(_as_square(whole)), separator]
        if grid == NO_TILES or tiles is None:
            return torch.cat(rows)
        columns, lines = grid
        # [rows, columns, side, side, hidden] -> [rows * side, columns * side, hidden]
        enlarged = _as_square(tiles).unflatten(0, (lines, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        return torch.cat([self._with_newlines(enlarged), *rows])

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
        tile_pixel_values: torch.Tensor | None = None,
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
            pixel_values: [images, 3, side, side], the views of the whole of all images of the batch.
            tile_grids: [images, 2], columns and rows of each image.
            tile_pixel_values: [tiles, 3, tile, tile], all tiles of the batch.
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
        given: ImageInputs = (pixel_values, tile_grids, tile_pixel_values)
        if any(each is not None for each in given):
            check_not_encoded_twice(image_features)
            self.check_images(input_ids, *given)
            image_features = self.get_image_features(*given, return_dict=True)
        inputs_embeds = embed_inputs(self, input_ids, inputs_embeds, image_features, cache)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **with_cache(cache, kwargs),
        )
        return model_output(outputs, image_features)


class DeepseekOCRForConditionalGeneration(MultimodalGenerationMixin, DeepseekOCRPreTrainedModel):
    """`DeepseekOCRModel` with the language modeling head, which published weights do not tie to the embedding."""

    optional_image_inputs = ("tile_pixel_values",)

    def __init__(self, config: DeepseekOCRConfig) -> None:
        super().__init__(config)
        self.model = DeepseekOCRModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def name_special_ids(self) -> None:
        """See `MultimodalGenerationMixin.name_special_ids`; how pages are read, too."""
        super().name_special_ids()
        for name, value in GENERATION.items():
            if getattr(self.generation_config, name) is None:
                setattr(self.generation_config, name, value)

    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        tile_grids: torch.Tensor | None = None,
        tile_pixel_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """See `DeepseekOCRModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, tile_grids, tile_pixel_values, **kwargs)

    def check_image_inputs(self, input_ids: Any, kwargs: dict[str, Any]) -> bool:
        """See `MultimodalGenerationMixin.check_image_inputs`; grids are compared with the prompts' places, too."""
        found = super().check_image_inputs(input_ids, kwargs)
        cache = kwargs.get(CACHE)
        if cache is None or not int(cache.get_seq_length()):  # else images of earlier turns may have been read before
            names = ("pixel_values", "tile_grids", "tile_pixel_values")
            self.model.check_images(input_ids, *(kwargs.get(name) for name in names))
        return found

    @cache_under_both_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        tile_grids: torch.Tensor | None = None,
        tile_pixel_values: torch.Tensor | None = None,
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
        """Runs the model and its head; arguments beyond these as in `DeepseekOCRModel.forward`.

        Args:
            input_ids: [batch, sequence].
            pixel_values: [images, 3, side, side].
            tile_grids: [images, 2].
            tile_pixel_values: [tiles, 3, tile, tile].
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
            tile_pixel_values=tile_pixel_values,
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


def _as_square(tokens: torch.Tensor) -> torch.Tensor:
    """[..., side * side, hidden] -> [..., side, side, hidden]."""
    side = round(tokens.shape[-2] ** 0.5)
    return tokens.unflatten(-2, (side, side))
