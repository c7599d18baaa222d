"""Times one layer's latent attention, of the sizes of DeepSeek-VL2 small, against that of transformers' deepseek_v2.

    python benchmarks/latent_attention.py

Same weights and inputs, called in turn. A decode step reads a cache that is filled to a number of tokens; it is cropped
again after each call. A prompt begins with an empty cache.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import DeepseekV2Config, DynamicCache
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from deepseek_vl_hf.hf.attention import SDPA_BY_DEVICE
from deepseek_vl_hf.hf.versions import CACHE
from deepseek_vl_hf.models.deepseek_moe.configuration_deepseek_moe import DeepseekMoeConfig
from deepseek_vl_hf.models.deepseek_moe.latent_attention import DeepseekMoeLatentAttention
from environment import report

SIZES = {"hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 1, "max_position_embeddings": 4096}
CACHED = (100, 1000, 4000)
PROMPTS = (620, 2048)
REPEATS = 31

Step = Callable[[], torch.Tensor]


def layers(dtype: torch.dtype) -> dict[str, tuple[torch.nn.Module, torch.nn.Module]]:
    """Attention and rotary embedding, ours and theirs, with the same weights."""
    ours = DeepseekMoeConfig(**SIZES)
    theirs = DeepseekV2Config(**SIZES, q_lora_rank=None)
    ours._attn_implementation, theirs._attn_implementation = SDPA_BY_DEVICE, "sdpa"
    torch.manual_seed(0)
    pair = {
        "ours": (DeepseekMoeLatentAttention(ours, 0).to(dtype).eval(), LlamaRotaryEmbedding(ours)),
        "transformers": (DeepseekV2Attention(theirs, 0).to(dtype).eval(), DeepseekV2RotaryEmbedding(theirs)),
    }
    pair["transformers"][0].load_state_dict(pair["ours"][0].state_dict())
    return pair


def step(
    attention: torch.nn.Module, rotary: torch.nn.Module, states: torch.Tensor, cache: DynamicCache, cached: int
) -> torch.Tensor:
    """The attention's output for tokens after a cache, which is left as it was."""
    positions = torch.arange(cached, cached + states.shape[1])[None]
    output = attention(
        hidden_states=states,
        position_embeddings=rotary(states, position_ids=positions),
        attention_mask=None,
        **{CACHE: cache},
    )[0]
    for layer in cache.layers:  # crop() of the cache would count from either end, by version
        layer.keys, layer.values = layer.keys[:, :, :cached], layer.values[:, :, :cached]
    return output


@torch.no_grad()
def compare(dtype: torch.dtype, cached: int, new: int) -> dict[str, Any]:
    """Medians in milliseconds, their ratio, and how far the outputs differ."""
    torch.manual_seed(1)
    past, states = (torch.randn(1, length, SIZES["hidden_size"], dtype=dtype) for length in (cached, new))
    steps: dict[str, Step] = {}
    for name, (attention, rotary) in layers(dtype).items():
        cache = DynamicCache()
        if cached:
            positions = rotary(past, position_ids=torch.arange(cached)[None])
            attention(hidden_states=past, position_embeddings=positions, attention_mask=None, **{CACHE: cache})
        steps[name] = lambda a=attention, r=rotary, c=cache: step(a, r, states, c, cached)  # type: ignore[misc]
    first = {name: run() for name, run in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: round(statistics.median(values) * 1e3, 3) for name, values in seconds.items()}
    difference = (first["ours"].float() - first["transformers"].float()).abs().max()
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "cached_tokens": cached,
        "new_tokens": new,
        "milliseconds": medians,
        "ratio": round(medians["ours"] / medians["transformers"], 3),
        "relative_difference": (difference / first["transformers"].float().abs().max()).item(),
    }


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    steps = [(cached, 1) for cached in CACHED] + [(0, prompt) for prompt in PROMPTS]
    figures = {"runs": [compare(dtype, *pair) for dtype in (torch.bfloat16, torch.float32) for pair in steps]}
    report("latent_attention", figures, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
