"""DeepSeek-MoE (arXiv 2401.06066), the language model of DeepSeek-VL2.

embeddings [batch, sequence, hidden]
  --each layer: RMSNorm, attention, residual; RMSNorm, MLP or experts, residual--> [batch, sequence, hidden]
  --RMSNorm--> [batch, sequence, hidden]

The first layers have one MLP; in the others a router chooses some of many experts for each token, and the shared
experts see every token. Attention goes through transformers' attention interface, the experts through its experts
interface, so every implementation that is registered there can be chosen.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_deepseek_vl2 import DeepseekVL2TextConfig


class DeepseekVL2MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DeepseekVL2TextConfig, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> the same."""
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class DeepseekVL2Router(nn.Module):
    """Chooses experts: softmax over all of them, the largest few, weighted as they are."""

    def __init__(self, config: DeepseekVL2TextConfig) -> None:
        super().__init__()
        self.num_experts_per_tok = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob
        self.routed_scaling_factor = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[tokens, hidden] -> logits [tokens, experts], weights and indices [tokens, chosen]; all in float32."""
        with torch.autocast(hidden_states.device.type, enabled=False):
            logits = functional.linear(hidden_states.float(), self.weight.float())
        weights, experts = logits.softmax(-1).topk(self.num_experts_per_tok, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights * self.routed_scaling_factor, experts


@use_experts_implementation
class DeepseekVL2Experts(nn.Module):
    """All experts of a layer; gate and up projection of each lie one behind the other."""

    def __init__(self, config: DeepseekVL2TextConfig) -> None:
        super().__init__()
        self.num_experts = config.n_routed_experts
        self.gate_up_proj = nn.Parameter(
            torch.empty(self.num_experts, 2 * config.moe_intermediate_size, config.hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, config.hidden_size, config.moe_intermediate_size))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """One expert after the other, each on its tokens; the sum is formed in float32, as in the original.

        Args:
            hidden_states: [tokens, hidden].
            experts: [tokens, chosen], indices of experts.
            weights: [tokens, chosen], float32.

        Returns:
            [tokens, hidden].
        """
        result = torch.zeros_like(hidden_states, dtype=torch.float32)
        for expert in experts.unique().tolist():
            tokens, places = torch.where(experts == expert)
            gate, up = functional.linear(hidden_states[tokens], self.gate_up_proj[expert]).chunk(2, -1)
            output = functional.linear(self.act_fn(gate) * up, self.down_proj[expert])
            result.index_add_(0, tokens, output * weights[tokens, places, None])
        return result.to(hidden_states.dtype)


class DeepseekVL2MoE(nn.Module):
    """Routed experts, and the shared ones, which are one MLP of their joint width."""

    def __init__(self, config: DeepseekVL2TextConfig) -> None:
        super().__init__()
        self.gate = DeepseekVL2Router(config)
        self.experts = DeepseekVL2Experts(config)
        self.shared_experts = DeepseekVL2MLP(config, config.n_shared_experts * config.moe_intermediate_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, sequence, hidden] -> the same."""
        tokens = hidden_states.flatten(0, 1)
        _, weights, experts = self.gate(tokens)
        routed = self.experts(tokens, experts, weights).view_as(hidden_states)
        return routed + self.shared_experts(hidden_states)


class DeepseekVL2DecoderLayer(GradientCheckpointingLayer):
    """Attention, then one MLP or experts; both behind an RMSNorm and beside a residual."""

    def __init__(self, config: DeepseekVL2TextConfig, layer_idx: int) -> None:
        super().__init__()
        dense = layer_idx < config.first_k_dense_replace
        self.self_attn = LlamaAttention(config, layer_idx)
        self.mlp = DeepseekVL2MLP(config, config.intermediate_size) if dense else DeepseekVL2MoE(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """[batch, sequence, hidden] -> the same; `kwargs` are the attention's."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class DeepseekVL2TextModel(PreTrainedModel):
    """The language model without its head; the module's docstring shows the flow."""

    config: DeepseekVL2TextConfig
    config_class = DeepseekVL2TextConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeepseekVL2DecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": DeepseekVL2DecoderLayer,
        "attentions": LlamaAttention,
        "router_logits": OutputRecorder(DeepseekVL2Router, index=0),
    }

    def __init__(self, config: DeepseekVL2TextConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(DeepseekVL2DecoderLayer(config, number) for number in layers)
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """For training from scratch: routers and experts as linear layers."""
        super()._init_weights(module)
        if isinstance(module, DeepseekVL2Router):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, DeepseekVL2Experts):
            init.normal_(module.gate_up_proj, std=self.config.initializer_range)
            init.normal_(module.down_proj, std=self.config.initializer_range)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Runs the layers.

        Args:
            input_ids: [batch, sequence].
            attention_mask: [batch, past + sequence], 0 at padding.
            position_ids: [batch, sequence].
            past_key_values: the cache of the tokens before these.
            inputs_embeds: [batch, sequence, hidden], instead of `input_ids`.
            use_cache: whether to return a cache.
            **kwargs: for the attention; `output_hidden_states`, `output_attentions`, `output_router_logits`.

        Raises:
            ValueError: both or none of `input_ids` and `inputs_embeds`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = (torch.arange(hidden_states.shape[1], device=hidden_states.device) + past)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        rotary = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_embeddings=rotary,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)
