"""DeepSeek-MoE (arXiv 2401.06066), the language model of DeepSeek-VL2.

embeddings [batch, sequence, hidden]
  --each layer: RMSNorm, attention, residual; RMSNorm, MLP or experts, residual--> [batch, sequence, hidden]
  --RMSNorm--> [batch, sequence, hidden]

The first layers have one MLP; in the others a router chooses some of many experts for each token, and the shared
experts see every token. Attention is multi-head in the tiny size and latent in the others. It goes through
transformers' attention interface, the experts through its experts interface, so every implementation that is registered
there can be chosen.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Cache, DynamicCache

from ...hf.attention import OF_ENGINES, attention_of
from ...hf.experts import is_registered
from ...hf.layers import (
    GradientCheckpointingLayer,
    LlamaAttention,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    OutputRecorder,
    capture_outputs,
    causal_mask,
    init,
    merge_with_config_defaults,
)
from ...hf.model import HfModel
from ...hf.outputs import LanguageModelOutput
from ...hf.versions import cache_under_both_names, with_cache
from ..steps import IGNORED
from .configuration_deepseek_moe import DeepseekMoeConfig
from .engine_attention import DeepseekMoeEngineAttention
from .experts import (
    BY_DEVICE,
    DeepseekMoeBlock,
    DeepseekMoeExperts,
    DeepseekMoeMLP,
    DeepseekMoeRouter,
    balance_loss,
    members_of_sequences,
)
from .latent_attention import DeepseekMoeLatentAttention


class DeepseekMoeDecoderLayer(GradientCheckpointingLayer):
    """Attention, then one MLP or experts; both after an RMSNorm and beside a residual."""

    def __init__(self, config: DeepseekMoeConfig, layer_idx: int) -> None:
        super().__init__()
        dense = layer_idx < config.first_k_dense_replace
        self.self_attn = _attention_class(config)(config, layer_idx)
        self.mlp = DeepseekMoeMLP(config, config.intermediate_size) if dense else DeepseekMoeBlock(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """[batch, sequence, hidden] -> the same; `kwargs` are the attention's."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


def _attention_class(config: DeepseekMoeConfig) -> type[nn.Module]:
    if not config.use_mla:
        return LlamaAttention
    return DeepseekMoeEngineAttention if attention_of(config) in OF_ENGINES else DeepseekMoeLatentAttention


class DeepseekMoeModel(HfModel):
    """The language model without its head; the module's docstring shows the flow."""

    config: DeepseekMoeConfig
    config_class = DeepseekMoeConfig
    base_model_prefix = "model"
    has_experts = True
    _no_split_modules = ["DeepseekMoeDecoderLayer"]
    _can_record_outputs = {
        "hidden_states": DeepseekMoeDecoderLayer,
        "attentions": [OutputRecorder(LlamaAttention, index=1), OutputRecorder(DeepseekMoeLatentAttention, index=1)],
        "router_logits": OutputRecorder(DeepseekMoeRouter, index=0),
    }

    def __init__(self, config: DeepseekMoeConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(DeepseekMoeDecoderLayer(config, number) for number in layers)
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def init_own_weights(self, module: nn.Module) -> None:
        """For training from scratch: routers and experts as linear layers."""
        if isinstance(module, DeepseekMoeRouter):
            init.normal_(module.weight, std=self.config.initializer_range)
            if hasattr(module, "e_score_correction_bias"):
                init.zeros_(module.e_score_correction_bias)
        elif isinstance(module, DeepseekMoeExperts):
            init.normal_(module.gate_up_proj, std=self.config.initializer_range)
            init.normal_(module.down_proj, std=self.config.initializer_range)

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """Where nothing was asked for, what is fastest on the device."""
        if requested_experts in (None, BY_DEVICE):
            requested_experts = BY_DEVICE if is_registered(BY_DEVICE) else None
        return super().get_correct_experts_implementation(requested_experts)

    def balance_loss(
        self,
        router_logits: Any,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The sum of all layers' balance losses, each times `router_aux_loss_coef`, as the original adds them.

        Args:
            router_logits: per layer with experts, [batch * sequence, experts].
            labels: [batch, sequence], or of the last positions alone, where `logits_to_keep` leaves others out.
            attention_mask: [batch, past + sequence], 0 at padding, which does not count; any other mask is not read.
            position_ids: [batch, sequence], by which packed sequences are told apart.
            num_items_in_batch: labels of all that the optimizer sees at once, of which this may be a part. Sequences
                then count by their labels, so that the parts add up to the same, however they are cut. None for the
                mean over sequences.

        Raises:
            ValueError: the routers are to learn, but their logits were recorded without a graph.
        """
        routers = [module for module in self.modules() if isinstance(module, DeepseekMoeRouter)]
        learning = self.training and torch.is_grad_enabled() and any(router.weight.requires_grad for router in routers)
        if learning and not router_logits[0].requires_grad:
            raise ValueError(
                "Found gradient checkpointing that records the routers' logits without a graph, so that the auxiliary "
                'loss would teach nothing; expected gradient_checkpointing_kwargs={"use_reentrant": False}.'
            )
        length = len(router_logits[0]) // len(labels)
        labels = functional.pad(labels, (length - labels.shape[1], 0), value=IGNORED)
        members = members_of_sequences(labels, attention_mask, position_ids)
        weights = None
        if num_items_in_batch is not None:
            learned = functional.pad(labels[:, 1:] != IGNORED, (0, 1)).flatten()
            weights = (members * learned.to(members)).sum(-1) / num_items_in_batch
        losses = [
            balance_loss(router, logits, members.to(logits.device), weights)
            for router, logits in zip(routers, router_logits, strict=True)
        ]
        return self.config.router_aux_loss_coef * torch.stack([loss.to(losses[0].device) for loss in losses]).sum()

    @cache_under_both_names
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> LanguageModelOutput:
        """Runs the layers.

        Args:
            input_ids: [batch, sequence].
            attention_mask: [batch, past + sequence], 0 at padding.
            position_ids: [batch, sequence].
            cache: that of the tokens before these; `past_key_values` is the same argument.
            inputs_embeds: [batch, sequence, hidden], instead of `input_ids`.
            use_cache: whether to return a cache.
            **kwargs: for the attention; `output_hidden_states`, `output_attentions`, `output_router_logits`.

        Raises:
            ValueError: both or none of `input_ids` and `inputs_embeds`, or a cache of another kind of attention.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        _check_cache(self.config, cache)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past = 0 if cache is None else cache.get_seq_length()
            position_ids = (torch.arange(hidden_states.shape[1], device=hidden_states.device) + past)[None]
        mask = causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            cache=cache,
            position_ids=position_ids,
        )
        rotary = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_embeddings=rotary,
                position_ids=position_ids,
                use_cache=use_cache,
                **with_cache(cache, kwargs),
            )
        return LanguageModelOutput(last_hidden_state=self.norm(hidden_states), cache=cache)


def _check_cache(config: DeepseekMoeConfig, cache: Cache | None) -> None:
    """Raises ValueError if the first layer's keys and values are those of another kind of attention."""
    layer = next(iter(getattr(cache, "layers", ())), None)  # a paged cache has none
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if torch.compiler.is_compiling() or keys is None or values is None or keys.ndim != 4:
        return
    found, latent = (keys.shape[-1], values.shape[-1]), (config.kv_lora_rank, config.qk_rope_head_dim)
    expected = latent if config.use_mla else (config.head_dim, config.head_dim)
    if found != expected:
        raise ValueError(
            f"The cache holds keys and values of the widths {found}; expected {expected}, which are "
            f"{'latents and rotary keys' if config.use_mla else 'those of the heads'}. It was filled by another model; "
            "begin with a new one."
        )
