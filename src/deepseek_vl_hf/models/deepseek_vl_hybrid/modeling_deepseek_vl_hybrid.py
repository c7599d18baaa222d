"""DeepSeek-VL-Hybrid (7B; arXiv 2403.05525, section 3.1): two towers, one grid of tokens.

pixel_values [images, 3, 384, 384]
  --vision_model (SigLIP)-->               [images, 576, 1024]
high_res_pixel_values [images, 3, 1024, 1024]
  --high_res_vision_model (SAM)-->         [images, 256, 64, 64]
    first whole-grid layer: [images, 64, 64, 768] --high_res_vision_neck--> [images, 256, 64, 64]
  --high_res_vision_proj, both paths-->    [images, 1024, 24, 24]
  --first + alpha * second-->              [images, 576, 1024]
--aligner-->                               [images, 576, hidden]   get_image_features(...).pooler_output
input_ids [batch, sequence]
  --embed_tokens-->                        [batch, sequence, hidden]   576 image places per image
  --insert image embeddings-->             [batch, sequence, hidden]
  --language_model (Llama)-->              [batch, sequence, hidden]
  --lm_head-->                             [batch, kept positions, vocabulary]
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, Cache, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple, logging

from ...hf.layers import init
from ...hf.offload import resident
from ...hf.outputs import MultimodalCausalLMOutputWithPast, MultimodalModelOutputWithPast
from ...hf.versions import cache_under_both_names, with_cache
from ..checks import check_none_missing, check_not_encoded_twice, check_pixels
from ..encoding import in_chunks
from ..generation import MultimodalGenerationMixin
from ..pretrained import MultimodalPreTrainedModel
from ..sam import SamEncoder, SamNeck
from ..steps import embed_inputs, head_output, model_output, with_use_cache
from .configuration_deepseek_vl_hybrid import DeepseekVLHybridConfig

logger = logging.get_logger(__name__)


@dataclass
class DeepseekVLHybridImageFeatures(BaseModelOutputWithPooling):
    """Images as the language model reads them, and what the towers gave.

    Attributes:
        pooler_output: [images, tokens, hidden], ready for the image places.
        last_hidden_state: [images, tokens, vision width], SigLIP after its final LayerNorm.
        hidden_states: SigLIP's, on request.
        attentions: SigLIP's, on request.
        high_res_vision_last_hidden_state: [images, tokens, high-resolution width], both paths of SAM joined.
        high_res_vision_hidden_states: SAM's, each [images, grid, grid, width], on request.
        high_res_vision_attentions: always None; SAM computes attention in blocks and never holds its maps.
    """

    high_res_vision_last_hidden_state: torch.Tensor | None = None
    high_res_vision_hidden_states: tuple[torch.Tensor, ...] | None = None
    high_res_vision_attentions: tuple[torch.Tensor, ...] | None = None


class DeepseekVLHybridProjection(nn.Module):
    """Brings SAM's grid to SigLIP's: interpolation to four times its side, then two convolutions of stride 2.

    Args:
        config: the SAM encoder's config.
        grid: side of SigLIP's grid; the original's is always 24.
    """

    def __init__(self, config: PreTrainedConfig, grid: int) -> None:
        super().__init__()
        channels = config.output_channels
        self.side = 4 * grid
        self.conv1 = nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(2 * channels, 4 * channels, kernel_size=3, stride=2, padding=1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[images, channels, SAM grid, SAM grid] -> [images, 4 * channels, grid, grid]."""
        # In float32, as the original does in every type.
        resized = functional.interpolate(features.float(), (self.side, self.side), mode="bilinear", align_corners=False)
        return self.conv2(self.conv1(resized.to(features.dtype)))


class DeepseekVLHybridAligner(nn.Module):
    """One linear layer per tower, side by side (high resolution first), the exact GELU, and a joint linear layer."""

    def __init__(self, config: DeepseekVLHybridConfig) -> None:
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.vision_proj = nn.Linear(config.vision_config.hidden_size, hidden_size // 2)
        self.high_res_vision_proj = nn.Linear(4 * config.high_res_vision_config.output_channels, hidden_size // 2)
        self.act = nn.GELU()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, vision_features: torch.Tensor, high_res_vision_features: torch.Tensor) -> torch.Tensor:
        """[images, tokens, vision width] and [images, tokens, high-resolution width] -> [images, tokens, hidden].

        Raises:
            ValueError: the towers' grids do not match.
        """
        if vision_features.shape[:2] != high_res_vision_features.shape[:2]:
            raise ValueError(
                "The towers' grids do not match. Images and tokens of low resolution: "
                f"{list(vision_features.shape[:2])}, of high resolution: {list(high_res_vision_features.shape[:2])}. "
                "Both towers must give the same grid for the same images."
            )
        high, low = self.high_res_vision_proj(high_res_vision_features), self.vision_proj(vision_features)
        return self.proj(self.act(torch.cat([high, low.to(high.device)], dim=-1)))


class DeepseekVLHybridPreTrainedModel(MultimodalPreTrainedModel):
    """Config, layers and initialization of the DeepSeek-VL-Hybrid models."""

    config: DeepseekVLHybridConfig
    config_class = DeepseekVLHybridConfig

    def init_own_weights(self, module: nn.Module) -> None:
        """For training from scratch: the second path starts closed."""
        if isinstance(module, DeepseekVLHybridModel):
            init.zeros_(module.high_res_vision_alpha)


class DeepseekVLHybridModel(DeepseekVLHybridPreTrainedModel):
    """Towers, aligner and language model; the module's docstring shows the flow."""

    def __init__(self, config: DeepseekVLHybridConfig) -> None:
        super().__init__(config)
        grid = config.vision_config.image_size // config.vision_config.patch_size
        self.vision_model = AutoModel.from_config(config.vision_config)
        self.high_res_vision_model = SamEncoder(config.high_res_vision_config)
        self.high_res_vision_neck = SamNeck(config.high_res_vision_config)
        self.high_res_vision_proj = DeepseekVLHybridProjection(config.high_res_vision_config, grid)
        self.high_res_vision_alpha = nn.Parameter(torch.zeros(1))
        self.aligner = DeepseekVLHybridAligner(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        high_res_pixel_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> DeepseekVLHybridImageFeatures:
        """Encodes images.

        Args:
            pixel_values: [images, 3, image_size, image_size], normalized by the image processor.
            high_res_pixel_values: [images, 3, high-resolution image_size, high-resolution image_size], the same images.
            **kwargs: `output_hidden_states` for both towers, `output_attentions` for SigLIP; `return_dict`.

        Raises:
            ValueError: one of the two is missing, they disagree in number, or a size is not its tower's.
        """
        pixel_values, high_res_pixel_values = self._check_pixels(pixel_values, high_res_pixel_values)
        low = in_chunks(partial(self.vision_model, return_dict=True, **kwargs), pixel_values, self.image_batch_size)
        encode_high = partial(self._encode_high_resolution, **kwargs)
        high, high_states = in_chunks(encode_high, high_res_pixel_values, self.image_batch_size)
        return DeepseekVLHybridImageFeatures(
            pooler_output=self.aligner(low.last_hidden_state, high),
            last_hidden_state=low.last_hidden_state,
            hidden_states=low.hidden_states,
            attentions=low.attentions,
            high_res_vision_last_hidden_state=high,
            high_res_vision_hidden_states=high_states,
        )

    def _check_pixels(
        self, pixel_values: torch.Tensor | None, high_res_pixel_values: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        check_none_missing({"pixel_values": pixel_values, "high_res_pixel_values": high_res_pixel_values})
        if pixel_values is None or high_res_pixel_values is None:
            raise ValueError("Found no images; pass pixel_values and high_res_pixel_values.")
        for name, pixels, config in (
            ("pixel_values", pixel_values, self.config.vision_config),
            ("high_res_pixel_values", high_res_pixel_values, self.config.high_res_vision_config),
        ):
            check_pixels(pixels, name, config.image_size, config.num_channels)
        if len(pixel_values) != len(high_res_pixel_values):
            raise ValueError(
                f"pixel_values holds {len(pixel_values)} images, high_res_pixel_values {len(high_res_pixel_values)}; "
                "expected the same images in both."
            )
        return pixel_values, high_res_pixel_values

    def _encode_high_resolution(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """[images, 3, side, side] -> [images, tokens, high-resolution width], and SAM's states on request."""
        if output_attentions:
            logger.warning_once(
                "SAM computes attention in blocks and never holds its maps (12 heads of 4096 x 4096 in each whole-grid "
                "layer), so high_res_vision_attentions is None whatever attn_implementation is used."
            )
        encoded = self.high_res_vision_model(pixel_values, bool(output_hidden_states))
        features = self.high_res_vision_proj(encoded.last_hidden_state)
        second = self.high_res_vision_proj(self.high_res_vision_neck(encoded.first_global_hidden_state))
        # The scalar belongs to the model itself, which may stand on another device than this tower.
        alpha = resident(self, "high_res_vision_alpha").to(second)
        joined = features + second * alpha  # [images, width, grid, grid]
        return joined.flatten(2).transpose(1, 2), encoded.hidden_states

    @cache_under_both_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        high_res_pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> MultimodalModelOutputWithPast:
        """Runs the model on text and images.

        Args:
            input_ids: [batch, sequence], with one image token per token of an image.
            pixel_values: [images, 3, image_size, image_size], the images of the whole batch in the order of their
                places.
            high_res_pixel_values: the same images, [images, 3, high-resolution side, high-resolution side].
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
        if pixel_values is not None or high_res_pixel_values is not None:
            check_not_encoded_twice(image_features)
            image_features = self.get_image_features(pixel_values, high_res_pixel_values, return_dict=True)
        inputs_embeds = embed_inputs(self, input_ids, inputs_embeds, image_features, cache)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **with_cache(cache, kwargs),
        )
        return model_output(outputs, image_features)


class DeepseekVLHybridForConditionalGeneration(MultimodalGenerationMixin, DeepseekVLHybridPreTrainedModel):
    """`DeepseekVLHybridModel` with the language modeling head, which published weights do not tie to the embedding."""

    def __init__(self, config: DeepseekVLHybridConfig) -> None:
        super().__init__(config)
        self.model = DeepseekVLHybridModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        high_res_pixel_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> DeepseekVLHybridImageFeatures:
        """See `DeepseekVLHybridModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, high_res_pixel_values, **kwargs)

    @cache_under_both_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        high_res_pixel_values: torch.Tensor | None = None,
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
        """Runs the model and its head; arguments beyond these as in `DeepseekVLHybridModel.forward`.

        Args:
            input_ids: [batch, sequence].
            pixel_values: [images, 3, image_size, image_size].
            high_res_pixel_values: [images, 3, high-resolution side, high-resolution side].
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
            high_res_pixel_values=high_res_pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=with_use_cache(use_cache, labels),
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        return head_output(self, outputs, labels, logits_to_keep, kwargs)
