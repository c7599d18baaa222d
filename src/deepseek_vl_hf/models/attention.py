"""The language models' attention where nothing else is asked for."""

from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SDPA_BY_DEVICE = "sdpa_by_device"


def sdpa_by_device(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' `sdpa` computes it, which gets a single bfloat16 query on a CPU twice.

    torch's fused kernel takes a product with one row for a vector's, which is slow in bfloat16: one query behind 620
    keys takes longer than sixteen do. With two equal rows it takes a third of the time.

    Arguments and result are those of transformers' attention interface.
    """
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    slow = query.shape[2] == 1 and query.dtype == torch.bfloat16 and query.device.type == "cpu"
    if not slow or query.shape[1] != key.shape[1]:  # heads that share keys are rows of one product already
        return attend(module, query, key, value, attention_mask, **kwargs)
    # The last query sees all keys; two rows without a mask would be taken for two positions.
    kwargs["is_causal"] = False
    output, weights = attend(module, torch.cat([query, query], 2), key, value, attention_mask, **kwargs)
    return output[:, :1], weights


ALL_ATTENTION_FUNCTIONS.register(SDPA_BY_DEVICE, sdpa_by_device)
ALL_MASK_ATTENTION_FUNCTIONS.register(SDPA_BY_DEVICE, sdpa_mask)


def prefer_sdpa_by_device(config: Any) -> None:
    """Chooses `sdpa_by_device` for a language model's config that says nothing else."""
    if config._attn_implementation is None:
        config._attn_implementation = SDPA_BY_DEVICE
