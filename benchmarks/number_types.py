"""Times types of numbers and prepacked weights on this processor, and on it held to AVX2 by the variables for that.

    python benchmarks/number_types.py

A language model of the 7B's sizes with one layer and a vocabulary of 8192, and the experts of one layer of VL2
tiny; random weights. Each way is called in turn with the others, in one process; the two processors are processes of
their own. Held to AVX2, this processor still has its own memory and clock: only the instructions are the older ones.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
from typing import Any

import torch
from tqdm import tqdm

from deepseek_vl_hf import DeepseekVLConfig, DeepseekVLForConditionalGeneration, fast_dtype, prepack_weights
from deepseek_vl_hf.cpu.packed_modules import PrepackedExperts
from deepseek_vl_hf.cpu.ways import computing_dtype
from deepseek_vl_hf.models.deepseek_moe.configuration_deepseek_moe import DeepseekMoeConfig
from deepseek_vl_hf.models.deepseek_moe.experts import DeepseekMoeExperts, experts_by_device
from environment import report
from port import OURS, Implementation
from stages import decode, prefill
from timing import Run, medians

HELD_TO_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
TEXT = {
    **{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32},
    **{"num_key_value_heads": 32, "num_hidden_layers": 1, "vocab_size": 8192, "max_position_embeddings": 4096},
}
TINY = {"hidden_size": 1280, "moe_intermediate_size": 896, "n_routed_experts": 64, "num_experts_per_tok": 6}
REPEATS, TOKEN_REPEATS = 3, 15
TOKENS = (1, 1035)


def models() -> dict[str, Any]:
    """The language model in each way; the packed one from float16, as published files are."""
    torch.manual_seed(0)
    vision = {"model_type": "siglip_vision_model", "num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1}
    exact = DeepseekVLForConditionalGeneration(DeepseekVLConfig(text_config=TEXT, vision_config=vision)).half().eval()
    made = {"float32": copy.deepcopy(exact).float(), "bfloat16": copy.deepcopy(exact).bfloat16()}
    if computing_dtype(torch.bfloat16) == torch.bfloat16:
        made["bfloat16, prepacked"] = prepack_weights(copy.deepcopy(made["bfloat16"]))
    made["float32, prepacked"] = prepack_weights(copy.deepcopy(made["float32"]))
    made["16 bits, prepacked to compute in float32"] = prepack_weights(exact)
    return made


def of_language(made: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds of a prompt and of a token after it, by the way."""
    pairs = {name: {OURS: Implementation(model, None)} for name, model in made.items()}
    prompts = {name: prefill(pair)[OURS] for name, pair in pairs.items()}
    tokens = {name: decode(pair)[OURS] for name, pair in pairs.items()}
    return {
        "prompt of 620 tokens": medians(prompts, REPEATS),
        "one token after 620": medians(tokens, TOKEN_REPEATS),
    }


def of_experts() -> dict[str, dict[str, float]]:
    """Seconds of one layer's experts, by the way."""
    torch.manual_seed(0)
    plain = DeepseekMoeExperts(DeepseekMoeConfig(**TINY)).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    lower = copy.deepcopy(plain).bfloat16()
    packed = {"16 bits, prepacked to compute in float32": PrepackedExperts(copy.deepcopy(plain).half(), torch.float32)}
    if computing_dtype(torch.bfloat16) == torch.bfloat16:
        packed["bfloat16, prepacked"] = PrepackedExperts(copy.deepcopy(lower), torch.bfloat16)
    found = {}
    for tokens in TOKENS:
        states = torch.randn(tokens, TINY["hidden_size"])
        chosen = torch.rand(tokens, TINY["n_routed_experts"]).topk(TINY["num_experts_per_tok"]).indices
        weights = torch.rand(chosen.shape)

        def plain_run(experts: Any, values: torch.Tensor, chosen: Any = chosen, weights: Any = weights) -> Run:
            return lambda: experts_by_device(experts, values, chosen, weights)

        def packed_run(experts: Any, values: torch.Tensor, chosen: Any = chosen, weights: Any = weights) -> Run:
            return lambda: experts(values, chosen, weights)

        runs = {"float32": plain_run(plain, states), "bfloat16": plain_run(lower, states.bfloat16())}
        runs |= {name: packed_run(experts, states.to(experts.packed_dtype)) for name, experts in packed.items()}
        repeats = TOKEN_REPEATS if tokens == 1 else REPEATS
        found[f"experts of a layer of VL2 tiny, {tokens} token" + "s" * (tokens > 1)] = medians(runs, repeats)
    return found


@torch.no_grad()
def measure() -> dict[str, Any]:
    """All figures of the processor as it is in this process."""
    seconds = {**of_language(models()), **of_experts()}
    rounded = {stage: {way: round(value, 5) for way, value in ways.items()} for stage, ways in seconds.items()}
    return {"fast_dtype": str(fast_dtype("cpu")), "seconds": rounded}


def in_a_process(variables: dict[str, str]) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--here"]
    result = subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    parser.add_argument("--here", action="store_true", help="measure this process alone, and print a line of JSON")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure()))
        return
    kinds = {"as it is": {}, "held to AVX2": HELD_TO_AVX2}
    found = {name: in_a_process(variables) for name, variables in tqdm(kinds.items())}
    report("number_types", {"processor_kinds": found}, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
