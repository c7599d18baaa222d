"""What is taken from transformers' Llama, and how a language model of one's own joins in.

Rotary embedding, RMSNorm and attention of Llama are those of DeepSeek-MoE, to the bit. transformers has no public way
to compose them, nor to record what layers give (`output_hidden_states`, `output_router_logits`).
"""

from typing import Any

from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .versions import CACHE

__all__ = [
    "GradientCheckpointingLayer",
    "LlamaAttention",
    "LlamaRMSNorm",
    "LlamaRotaryEmbedding",
    "OutputRecorder",
    "apply_rotary_pos_emb",
    "capture_outputs",
    "causal_mask",
    "eager_attention_forward",
    "init",
    "merge_with_config_defaults",
]


def causal_mask(*, cache: Any, **kwargs: Any) -> Any:
    """Transformers' `create_causal_mask`, whose name for the cache differs between releases."""
    return create_causal_mask(**kwargs, **{CACHE: cache})
