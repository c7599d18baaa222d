"""Latent attention in an engine that keeps keys and values by itself, such as vLLM.

vLLM's Transformers backend reads the source of `forward`. Where it finds the attention interface called once, by the
name that the interface has in transformers, it puts its own attention there. Where it also finds a method that turns
latents and rotary keys into keys and values, it may leave that method out and cache latents. So both stand here in the
form that it looks for, without a cache, and without absorption, which is the engine's part.

Projections of one input that `forward` itself calls are made one, which is cut among several GPUs. Latents must not be
cut, so `queries` is a method.
"""

from typing import Any

import torch

from ...hf.attention import ALL_ATTENTION_FUNCTIONS, attention_of
from ...hf.layers import apply_rotary_pos_emb, eager_attention_forward
from .latent_attention import DeepseekMoeLatentAttention, rotary_halves


class DeepseekMoeEngineAttention(DeepseekMoeLatentAttention):
    """`DeepseekMoeLatentAttention` for a model that is made with the attention of an engine; same weights."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[batch, sequence, hidden] -> the same, and None; arguments as of `DeepseekMoeLatentAttention.forward`."""
        plain, rotary = self.queries(hidden_states)
        compressed = self.kv_a_proj_with_mqa(hidden_states)
        latents, keys = compressed.split((self.config.kv_lora_rank, self.config.qk_rope_head_dim), dim=-1)
        latents = self.kv_a_layernorm(latents)[:, None]
        cosines, sines = position_embeddings
        rotary, keys = apply_rotary_pos_emb(rotary_halves(rotary), rotary_halves(keys[:, None]), cosines, sines)
        all_keys, values = self.expand(latents, keys)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention_of(self.config), eager_attention_forward)
        output, weights = attend(
            self,
            torch.cat([plain, rotary], -1),
            all_keys,
            values,
            attention_mask,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:2], -1)), weights
