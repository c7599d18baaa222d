"""DeepSeek-MoE in an engine that keeps keys and values by itself, such as vLLM.

vLLM compiles the whole of `forward` and finds its arguments by their names, so it must not be wrapped as
`DeepseekMoeModel.forward` is for the cache's two names and for recorded outputs. Neither is anything to an engine.
"""

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from ...hf.attention import OF_ENGINES, attention_of
from .configuration_deepseek_moe import DeepseekMoeConfig
from .modeling_deepseek_moe import DeepseekMoeModel


def language_model(config: DeepseekMoeConfig) -> DeepseekMoeModel:
    """The language model of a config, in the form for the attention that the config asks for; same weights in each."""
    return (DeepseekMoeEngineModel if attention_of(config) in OF_ENGINES else DeepseekMoeModel)(config)


class DeepseekMoeEngineModel(DeepseekMoeModel):
    """`DeepseekMoeModel` for a model that is made with the attention of an engine."""

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Runs the layers.

        Args:
            input_ids: [batch, sequence].
            position_ids: [batch, sequence].
            inputs_embeds: [batch, sequence, hidden], instead of `input_ids`.
            **kwargs: what is for masks and caches; not read.
        """
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        rotary = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=None, position_embeddings=rotary)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states))
