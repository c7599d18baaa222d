"""The language models' attention where nothing else is asked for."""

from typing import Any

import torch
from torch.nn import functional
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
    """Attention as transformers' `sdpa` computes it, past two slow sides of torch's kernels for a CPU.

    Arguments and result are those of transformers' attention interface. What is done about the kernels:

    - The fused one wants values as wide as keys; others get one that keeps all scores at once and takes up to three
      times the time for long prompts. So narrower values, which latent attention has, are filled up with zeros.
    - It takes a single bfloat16 query for a vector, whose product with the keys is slower than that of sixteen queries.
      So a single query goes in twice.

    Raises:
        ValueError: the cache is a paged one, for which continuous batching makes masks by the name `sdpa` alone.
    """
    if kwargs.get("cache") is not None:
        raise ValueError(f"{SDPA_BY_DEVICE} is not for paged caches. Call model.set_attn_implementation('sdpa') first.")
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if query.device.type != "cpu":
        return attend(module, query, key, value, attention_mask, **kwargs)
    rows, width = query.shape[2], value.shape[-1]
    if width < query.shape[-1]:
        value = functional.pad(value, (0, query.shape[-1] - width))
    # With a mask, transformers makes rows of heads that share keys.
    alone = query.shape[1] == key.shape[1] or attention_mask is None
    if rows == 1 and query.dtype == torch.bfloat16 and alone:
        query = torch.cat([query, query], 2)
        # The one query sees all keys; two rows without a mask would be taken for two positions.
        kwargs["is_causal"] = False
    output, weights = attend(module, query, key, value, attention_mask, **kwargs)
    return output[:, :rows, :, :width], weights


ALL_ATTENTION_FUNCTIONS.register(SDPA_BY_DEVICE, sdpa_by_device)
ALL_MASK_ATTENTION_FUNCTIONS.register(SDPA_BY_DEVICE, sdpa_mask)


def prefer_sdpa_by_device(config: Any) -> None:
    """Chooses `sdpa_by_device` for a language model's config that says nothing else."""
    if config._attn_implementation is None:
        config._attn_implementation = SDPA_BY_DEVICE
