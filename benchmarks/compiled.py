"""A decode step of a compiled model, as `generate` runs it with a static cache."""

from typing import Any

import torch
from transformers import StaticCache

from deepseek_vl_hf import compiled_decoding
from port import DEVICE
from stages import PROMPT_TOKENS
from timing import Run

CACHE_TOKENS = 1024


def compiled_decode(model: Any) -> Run:
    """Compiles the model; returns a call that decodes one token behind a prompt, each time the next one.

    Args:
        model: ours, without gradients.
    """
    cache = StaticCache(model.config.text_config, max_cache_len=CACHE_TOKENS)
    ids = torch.full((1, PROMPT_TOKENS), 5, device=DEVICE)
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    forward = model.get_compiled_call(compiled_decoding())
    mask = torch.ones(1, CACHE_TOKENS, dtype=torch.long, device=DEVICE)
    token = ids[:, :1].contiguous()
    return lambda: forward(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True).logits
