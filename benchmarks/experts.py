"""Times the experts of one layer against every implementation that transformers has, for DeepSeek-VL2 tiny and small.

    python benchmarks/experts.py

bfloat16, random choices of experts, the implementations in turn with the order rotated. "transformers' loop" is that of
its deepseek_v2, "by_device" what this package takes by itself.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from transformers import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Experts

from deepseek_vl_hf.models.deepseek_moe.configuration_deepseek_moe import DeepseekMoeConfig
from deepseek_vl_hf.models.deepseek_moe.experts import BY_DEVICE, DeepseekMoeExperts
from environment import report

SIZES = {
    "deepseek-vl2-tiny": {"hidden_size": 1280, "moe_intermediate_size": 896},
    "deepseek-vl2-small": {"hidden_size": 2048, "moe_intermediate_size": 1408},
}
EXPERTS = {"n_routed_experts": 64, "num_experts_per_tok": 6}
REPEATS = {1: 60, 4: 40, 16: 30, 620: 15}
LOOP = "transformers' loop"
# Each token's experts are copied out of the weights: of 620 tokens they would fill 25 GB.
BATCHED, MOST_TOKENS_BATCHED = "batched_mm", 4


def modules(size: dict[str, int]) -> dict[str, torch.nn.Module]:
    """One module per implementation; all share their weights."""
    ours = DeepseekMoeExperts(DeepseekMoeConfig(**size, **EXPERTS))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.02)
    ours.to(torch.bfloat16)
    result: dict[str, torch.nn.Module] = {}
    for name in (BY_DEVICE, "grouped_mm", BATCHED, LOOP):
        with torch.device("meta"):
            module = (
                DeepseekMoeExperts(DeepseekMoeConfig(**size, **EXPERTS))
                if name == BY_DEVICE
                else DeepseekV2Experts(DeepseekV2Config(**size, **EXPERTS))
            )
        module.config._experts_implementation = "eager" if name == LOOP else name
        module.load_state_dict(ours.state_dict(), assign=True)
        result[name] = module
    return result


@torch.no_grad()
def compare(implementations: dict[str, torch.nn.Module], size: dict[str, int], tokens: int) -> dict[str, Any]:
    """Medians in milliseconds for a number of tokens."""
    torch.manual_seed(0)
    states = torch.randn(tokens, size["hidden_size"], dtype=torch.bfloat16)
    chosen = [torch.rand(tokens, EXPERTS["n_routed_experts"]).topk(EXPERTS["num_experts_per_tok"]) for _ in range(8)]
    names = [name for name in implementations if name != BATCHED or tokens <= MOST_TOKENS_BATCHED]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(REPEATS[tokens] + 2):
        weights, experts = chosen[number % len(chosen)]
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            implementations[name](states, experts, weights)
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: round(statistics.median(values) * 1e3, 3) for name, values in seconds.items()}
    best = min(value for name, value in medians.items() if name != BY_DEVICE)
    return {"tokens": tokens, "milliseconds": medians, "to_best_other": round(medians[BY_DEVICE] / best, 3)}


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    figures = {}
    for name, size in SIZES.items():
        implementations = modules(size)
        figures[name] = [compare(implementations, size, tokens) for tokens in REPEATS]
    report("experts", {"sizes": figures}, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
