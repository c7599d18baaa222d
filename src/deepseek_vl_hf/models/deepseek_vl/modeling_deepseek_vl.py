"""DeepSeek-VL with one vision tower (1.3B; arXiv 2403.05525, section 3.1).

pixel_values [images, 3, 384, 384]
  --vision_model (SigLIP)-->   [images, 576, 1024]
  --aligner-->                 [images, 576, hidden]       get_image_features(...).pooler_output
input_ids [batch, sequence]
  --embed_tokens-->            [batch, sequence, hidden]   576 image places per image
  --insert image embeddings--> [batch, sequence, hidden]
  --language_model (Llama)-->  [batch, sequence, hidden]
  --lm_head-->                 [batch, kept positions, vocabulary]
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from ...hf.outputs import MultimodalCausalLMOutputWithPast, MultimodalModelOutputWithPast
from ...hf.versions import cache_under_both_names, with_cache
from ..checks import check_not_encoded_twice, check_pixels
from ..encoding import in_chunks
from ..generation import MultimodalGenerationMixin
from ..pretrained import MultimodalPreTrainedModel
from ..steps import embed_inputs, head_output, model_output, with_use_cache
from .configuration_deepseek_vl import DeepseekVLConfig


class DeepseekVLAligner(nn.Module):
    """Two linear layers with the exact GELU between them: [..., vision width] -> [..., hidden]."""

    def __init__(self, config: DeepseekVLConfig) -> None:
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.linear1 = nn.Linear(config.vision_config.hidden_size, hidden_size)
        self.activation = nn.GELU()
        self.linear2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, vision_features: torch.Tensor) -> torch.Tensor:
        """[images, tokens, vision width] -> [images, tokens, hidden]."""
        return self.linear2(self.activation(self.linear1(vision_features)))


class DeepseekVLPreTrainedModel(MultimodalPreTrainedModel):
    """Config and layers of the DeepSeek-VL models."""

    config: DeepseekVLConfig
    config_class = DeepseekVLConfig


class DeepseekVLModel(DeepseekVLPreTrainedModel):
    """Tower, aligner and language model; the module's docstring shows the flow."""

    def __init__(self, config: DeepseekVLConfig) -> None:
        super().__init__(config)
        self.vision_model = AutoModel.from_config(config.vision_config)
        self.aligner = DeepseekVLAligner(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: [images, 3, image_size, image_size], normalized by the image processor.
            **kwargs: `output_hidden_states`, `output_attentions` for the tower; `return_dict`.

        Returns:
            `pooler_output` [images, tokens, hidden], ready for the image places; `last_hidden_state`
            [images, tokens, vision width], the tower's output after its final LayerNorm; on request the tower's
            `hidden_states` and `attentions`.

        Raises:
            ValueError: another number of channels or another image size than the tower's.
        """
        vision_config = self.config.vision_config
        check_pixels(pixel_values, "pixel_values", vision_config.image_size, vision_config.num_channels)
        encode = partial(self.vision_model, return_dict=True, **kwargs)
        tower = in_chunks(encode, pixel_values, self.image_batch_size)
        return BaseModelOutputWithPooling(
            last_hidden_state=tower.last_hidden_state,
            pooler_output=self.aligner(tower.last_hidden_state),
            hidden_states=tower.hidden_states,
            attentions=tower.attentions,
        )

    @cache_under_both_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
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
            attention_mask: [batch, past + sequence], 0 at padding.
            position_ids: [batch, sequence].
            cache: that of the tokens before these; `past_key_values` is the same argument.
            inputs_embeds: [batch, sequence, hidden], instead of `input_ids`.
            use_cache: whether to return a cache.
            mm_encoder_outputs: `{"image": get_image_features(...)}` instead of `pixel_values`; `generate` encodes
                images once and passes them so.
            **kwargs: for the language model.

        Raises:
            ValueError: image places and image tokens differ in number, or inputs exclude each other.
        """
        image_features = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None:
            check_not_encoded_twice(image_features)
            image_features = self.get_image_features(pixel_values, return_dict=True)
        inputs_embeds = embed_inputs(self, input_ids, inputs_embeds, image_features, cache)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **with_cache(cache, kwargs),
        )
        return model_output(outputs, image_features)


class DeepseekVLForConditionalGeneration(MultimodalGenerationMixin, DeepseekVLPreTrainedModel):
    """`DeepseekVLModel` with the language modeling head, which is not tied to the embedding in published weights."""

    def __init__(self, config: DeepseekVLConfig) -> None:
        super().__init__(config)
        self.model = DeepseekVLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `DeepseekVLModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    @cache_under_both_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
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
        """Runs the model and its head; arguments beyond these as in `DeepseekVLModel.forward`.

        Args:
            input_ids: [batch, sequence].
            pixel_values: [images, 3, image_size, image_size].
            attention_mask: [batch, past + sequence].
            position_ids: [batch, sequence].
            cache: that of the tokens before these; `past_key_values` is the same argument.
            inputs_embeds: [batch, sequence, hidden], instead of `input_ids`.
            labels: [batch, sequence], ids of the tokens themselves (they are shifted here); -100 is left out.
            use_cache: whether to return a cache; without labels the config's `use_cache` is the default.
            logits_to_keep: how many last positions get logits (0: all), a 1-D tensor of positions, or a mask
                [batch, sequence]: logits are then [positions, vocabulary], which training needs of answers alone.
            mm_encoder_outputs: images that were encoded before, instead of `pixel_values`.
            **kwargs: for the language model and the loss.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
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
