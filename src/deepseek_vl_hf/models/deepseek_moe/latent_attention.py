"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) of DeepSeek-VL2 small and base.

hidden [batch, sequence, hidden]
  --q_proj-->                per head a query of [without position, rotary]
  --kv_a_proj_with_mqa-->    latent [512] and rotary key [64], both one for all heads: this is cached
  --kv_b_proj-->             per head a key without position and a value, from the latent

Long inputs expand the latents to keys and values and go through transformers' attention interface. A few new tokens
after a long cache would expand all of it for little: for them kv_b_proj is absorbed, that is, multiplied into the
queries and into the outputs, so that all heads attend to the latents themselves.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Cache

from ...hf.attention import SDPA_BY_DEVICE, attention_function, attention_of
from ...hf.layers import LlamaRMSNorm, apply_rotary_pos_emb, eager_attention_forward
from ...hf.versions import cache_under_both_names
from .configuration_deepseek_moe import DeepseekMoeConfig

# Attention to a latent costs a head 2 x (512 + 64 + 512) instead of 2 x (192 + 128) operations per query and key, and
# expanding a latent 2 x 512 x 256: equal at about 170 queries. Fewer, because plain products keep all scores.
MOST_ABSORBED_QUERIES = 32
# Implementations whose masks are those of a plain product.
WITH_PLAIN_MASKS = ("eager", "sdpa", SDPA_BY_DEVICE)


class LatentProjection(nn.Linear):
    """kv_b_proj: from latents to keys without position and values; or one half of it, for absorption."""

    def __init__(self, config: DeepseekMoeConfig) -> None:
        self.widths = (config.qk_nope_head_dim, config.v_head_dim)
        super().__init__(config.kv_lora_rank, config.num_attention_heads * sum(self.widths), bias=False)

    def forward(self, states: torch.Tensor, absorb: str | None = None) -> torch.Tensor:
        """Expands latents, or absorbs the half of the weight that makes keys or values.

        Args:
            states: latents [..., latent]; with `absorb` "keys" queries [batch, heads, sequence, without position], with
                "values" sums of latents [batch, heads, sequence, latent].
            absorb: "keys", "values", or None to expand.

        Returns:
            [..., heads * (without position + value)]; queries for latents [batch, heads, sequence, latent]; values
            [batch, heads, sequence, value].
        """
        if absorb is None:
            return super().forward(states)
        keys, values = self.weight.unflatten(0, (-1, sum(self.widths))).split(self.widths, dim=1)
        if absorb == "keys":
            return torch.einsum("bhsk,hkl->bhsl", states, keys)
        return torch.einsum("bhsl,hvl->bhsv", states, values)


class DeepseekMoeLatentAttention(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: DeepseekMoeConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.num_key_value_groups = 1  # for the attention interface: expanded, there are as many keys as queries
        self.attention_dropout = config.attention_dropout
        self.widths = (config.qk_nope_head_dim, config.qk_rope_head_dim)
        self.scaling = sum(self.widths) ** -0.5
        heads, bias = config.num_attention_heads, config.attention_bias
        latent_width: Any = config.kv_lora_rank  # the config has checked that there is one
        self.q_proj = nn.Linear(config.hidden_size, heads * sum(self.widths), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(config.hidden_size, latent_width + config.qk_rope_head_dim, bias=bias)
        self.kv_a_layernorm = LlamaRMSNorm(latent_width, eps=1e-6)
        self.kv_b_proj = LatentProjection(config)
        self.o_proj = nn.Linear(heads * config.v_head_dim, config.hidden_size, bias=bias)

    @cache_under_both_names
    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: Any = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[batch, sequence, hidden] -> the same, and the attention's weights if the implementation gives them.

        Args:
            hidden_states: [batch, sequence, hidden].
            position_embeddings: cosine and sine, [batch, sequence, rotary] each.
            attention_mask: as the implementation wants it.
            cache: as keys it holds latents [batch, 1, sequence, 512], as values rotary keys
                [batch, 1, sequence, 64].
            **kwargs: for the attention interface.
        """
        plain, rotary = self.queries(hidden_states)
        latents, keys = self.kv_a_proj_with_mqa(hidden_states)[:, None].split(
            (self.config.kv_lora_rank, self.config.qk_rope_head_dim), dim=-1
        )
        latents = self.kv_a_layernorm(latents)
        rotary, keys = apply_rotary_pos_emb(rotary_halves(rotary), rotary_halves(keys), *position_embeddings)
        if cache is not None:
            latents, keys = cache.update(latents, keys, self.layer_idx)
        attend = self._absorbed if self._absorbs(plain, attention_mask) else self._expanded
        output, weights = attend(plain, rotary, latents, keys, attention_mask, **kwargs)
        return self.o_proj(output.flatten(2)), weights

    def queries(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two parts of every head's queries.

        Args:
            hidden_states: [batch, sequence, hidden].

        Returns:
            [batch, heads, sequence, without position], and [batch, heads, sequence, rotary].
        """
        queries = self.q_proj(hidden_states).unflatten(-1, (-1, sum(self.widths))).transpose(1, 2)
        plain, rotary = queries.split(self.widths, dim=-1)
        return plain, rotary

    def _absorbs(self, queries: torch.Tensor, mask: Any) -> bool:
        """Whether a few queries see a plain mask, and the weight of kv_b_proj is one whose halves can be taken."""
        count = queries.shape[2]
        plain_mask = attention_of(self.config) in WITH_PLAIN_MASKS and (count == 1 or mask is not None)
        plain_weight = isinstance(self.kv_b_proj, LatentProjection) and type(self.kv_b_proj.weight) is nn.Parameter
        return plain_mask and plain_weight and count <= MOST_ABSORBED_QUERIES and not self.training

    def _expanded(
        self,
        plain: torch.Tensor,
        rotary: torch.Tensor,
        latents: torch.Tensor,
        keys: torch.Tensor,
        mask: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Keys and values of every head; returns [batch, sequence, heads, value]."""
        all_keys, values = self.expand(latents, keys)
        return attention_function(self.config, eager_attention_forward)(
            self,
            torch.cat([plain, rotary], -1),
            all_keys,
            values,
            mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )

    def expand(self, latents: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of every head.

        Args:
            latents: [batch, 1, sequence, latent].
            keys: the rotary ones, [batch, 1, sequence, rotary].

        Returns:
            [batch, heads, sequence, without position + rotary], and [batch, heads, sequence, value].
        """
        expanded = self.kv_b_proj(latents[:, 0])
        expanded = expanded.unflatten(-1, (-1, self.widths[0] + self.config.v_head_dim)).transpose(1, 2)
        plain_keys, values = expanded.split((self.widths[0], self.config.v_head_dim), dim=-1)
        return torch.cat([plain_keys, keys.expand(-1, plain_keys.shape[1], -1, -1)], -1), values

    def _absorbed(
        self,
        plain: torch.Tensor,
        rotary: torch.Tensor,
        latents: torch.Tensor,
        keys: torch.Tensor,
        mask: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention to the latents, the heads as rows of one; returns [batch, sequence, heads, value] and weights."""
        shape = plain.shape[1:3]  # heads, sequence
        rows = (self.kv_b_proj(plain, absorb="keys") * self.scaling).flatten(1, 2)
        scores = torch.bmm((rotary * self.scaling).flatten(1, 2), keys[:, 0].mT).float()
        scores = (scores + torch.bmm(rows, latents[:, 0].mT)).unflatten(1, shape)  # float32: rounded once, not twice
        if mask is not None:
            mask = mask[..., : scores.shape[-1]]
            # Not -inf: of rows at padding nothing is left, and their softmax would not be a number.
            least = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~mask, least) if mask.dtype == torch.bool else scores + mask
        weights = functional.softmax(scores, -1).to(plain.dtype)
        sums = torch.bmm(weights.flatten(1, 2), latents[:, 0]).unflatten(1, shape)
        return self.kv_b_proj(sums, absorb="values").transpose(1, 2), weights


def rotary_halves(pairs: torch.Tensor) -> torch.Tensor:
    """From numbers that are rotated in neighboring pairs to those whose halves are: all first ones, then all second.

    Queries and keys are reordered alike, so their products stay.
    """
    return torch.cat([pairs[..., ::2], pairs[..., 1::2]], -1)
