"""Which attention a model computes, and the language models' own where nothing else is asked for."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SDPA_BY_DEVICE = "sdpa_by_device"
# The names under which engines register attention that keeps keys and values by itself, in pages, without a mask.
OF_ENGINES = ("vllm", "vllm_mla")


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
    if kwargs.get("cache") is not None:  # from 5.24 on transformers refuses other names by itself
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


def is_registered(name: str) -> bool:
    """Whether transformers knows an attention by this name."""
    return name in AttentionInterface()


def attention_of(config: Any) -> str | None:
    """The name of the attention that a config asks for; None where it leaves that to transformers."""
    return config._attn_implementation


def prefer_attention(config: Any, name: str) -> None:
    """Chooses an attention for the config of a model that is being made, if it says nothing else."""
    if attention_of(config) in (None, name):
        config._attn_implementation = name if is_registered(name) else "sdpa"


def attention_function(config: Any, eager: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind the name that a config asks for; `eager` where it asks for that."""
    return ALL_ATTENTION_FUNCTIONS.get_interface(attention_of(config), eager)
