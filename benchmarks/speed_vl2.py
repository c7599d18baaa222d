"""Times DeepSeek-VL2 tiny stage by stage beside the same parts of transformers: published sizes, same random weights.

    python benchmarks/speed_vl2.py

transformers has no DeepSeek-VL2; `port_vl2.py` says which of its classes stand for one. Before anything is timed the
two are compared, and a difference is an error. They are called in turn, in one process; memory is measured in processes
of their own. In float32 the language model has fewer layers, so that all fits into 10 GB.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import processes
import stages
from deepseek_vl_hf.models.deepseek_moe.experts import BY_DEVICE
from environment import report
from port import DEVICE, OURS, PORT
from port_vl2 import implementations
from speed import compare, row
from timing import Run, medians

LAYERS = {torch.float32: 4, torch.bfloat16: 12}
# The largest difference over the largest value that is taken for rounding. Measured: 0 for the tower, of which both
# have the same code, and 4e-7 and 1.4e-2 for the logits. One wrong expert of one token, in the last layer alone, makes
# 7e-3, which float32 shows and bfloat16 does not; so both types are compared.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 4e-2}
REPEATS = 3
DECODE_REPEATS = 31
PROMPT_TOKENS = 1035
GRID = (2, 3)
PICTURE_SIZE = (800, 1200)
STAND_INS = {
    "tower": "SiglipVisionModel without its head",
    "projector": "this package's on both sides",
    "language model": "that of DeepseekOcr2ForConditionalGeneration, with its generate and cache",
    "processor": "this package's on both sides",
    "experts": "the fastest of transformers' implementations",
}
# Those that transformers can be asked for by name; "eager" is the loop in the model's own code. batched_mm copies each
# token's experts out of the weights: of 1035 tokens that would fill 40 GB.
EXPERTS = {1: ("eager", "grouped_mm", "batched_mm"), PROMPT_TOKENS: ("eager", "grouped_mm")}
EXPERTS_REPEATS = {1: 60, PROMPT_TOKENS: 9}
MEMORY = Path(__file__).parent / "memory_vl2.py"


def pixels(tiles: int, dtype: torch.dtype) -> torch.Tensor:
    """Random normalized pixels, [tiles, 3, 384, 384]."""
    return torch.randn(tiles, 3, 384, 384, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)


def tower(pair: stages.Pair) -> stages.Runs:
    """One tile through SigLIP."""
    values = pixels(1, pair[OURS].model.dtype)
    return stages.each(pair, lambda one: lambda: one.model.model.vision_model(values).last_hidden_state)


def picture(pair: stages.Pair) -> stages.Runs:
    """A picture of seven tiles through tower and projector, joined."""
    values, grids = pixels(1 + GRID[0] * GRID[1], pair[OURS].model.dtype), torch.tensor([GRID])
    return stages.each(pair, lambda one: lambda: one.model.get_image_features(values, grids, return_dict=True))


def features(output: Any) -> torch.Tensor:
    """[tokens, hidden] of the only picture, of whichever implementation."""
    return output[0] if isinstance(output, list) else output.pooler_output[0]


def difference(stage: str, found: dict[str, torch.Tensor], limit: float) -> float:
    """The largest difference over the largest value.

    Raises:
        ValueError: it is above the limit.
    """
    ours, port = found[OURS].float(), found[PORT].float()
    value = ((ours - port).abs().max() / port.abs().max()).item()
    if not value <= limit:  # what is no number is no agreement
        raise ValueError(
            f"{stage}: the two differ by {value:.1e} of the largest value; expected at most {limit:.0e}. Their times "
            "would not be those of the same work."
        )
    return value


@torch.no_grad()
def agreement(pair: stages.Pair) -> dict[str, float]:
    """How far the two are apart, per stage; see `difference`."""
    limit = TOLERANCES[pair[OURS].model.dtype]
    ids = stages.prompt(64)
    outputs = {
        "one tile": {name: run() for name, run in tower(pair).items()},
        "logits": {name: one.model(input_ids=ids).logits for name, one in pair.items()},
    }
    if pair[OURS].model.dtype != torch.float32:  # a minute in float32, and what it adds is only an order
        outputs["picture"] = {name: features(run()) for name, run in picture(pair).items()}
    return {stage: difference(stage, found, limit) for stage, found in outputs.items()}


@torch.no_grad()
def experts(pair: stages.Pair, tokens: int) -> dict[str, Any]:
    """The routed experts of one layer, ours against the fastest of transformers'."""
    ours, port = (pair[name].model.model.language_model for name in (OURS, PORT))
    width, dtype = ours.config.hidden_size, ours.dtype
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, width, generator=generator).to(DEVICE, dtype)
    chances = torch.rand(tokens, ours.config.n_routed_experts, generator=generator).to(DEVICE)
    weights, chosen = chances.softmax(-1).topk(ours.config.num_experts_per_tok)

    def with_experts(name: str) -> Run:
        def run() -> torch.Tensor:
            port.set_experts_implementation(name)
            return port.layers[1].mlp.experts(states, chosen, weights)

        return run

    usual = port.config._experts_implementation
    runs: dict[str, Run] = {BY_DEVICE: lambda: ours.layers[1].mlp.experts(states, chosen, weights)}
    runs |= {name: with_experts(name) for name in EXPERTS[tokens]}
    for name in EXPERTS[tokens]:
        difference(f"experts, {name}", {OURS: runs[BY_DEVICE](), PORT: runs[name]()}, TOLERANCES[dtype])
    seconds = medians(runs, EXPERTS_REPEATS[tokens])
    port.set_experts_implementation(usual)
    best = min(EXPERTS[tokens], key=lambda name: seconds[name])
    stage = f"experts of one layer, {tokens} token" + "s" * (tokens > 1)
    values = {OURS: round(seconds[BY_DEVICE], 5), PORT: round(seconds[best], 5)}
    return {
        **row(stage, str(dtype).removeprefix("torch."), values),
        "fastest_of_transformers": best,
        "all": {name: round(value, 5) for name, value in seconds.items()},
    }


@torch.no_grad()
def timed(pair: stages.Pair) -> list[dict[str, Any]]:
    """All stages in the type of these models."""
    dtype = str(pair[OURS].model.dtype).removeprefix("torch.")
    named: dict[str, tuple[Callable[[stages.Pair], stages.Runs], int]] = {
        "one tile, SigLIP": (tower, REPEATS),
        "picture of 7 tiles, SigLIP and projector": (picture, REPEATS),
        f"prompt of {PROMPT_TOKENS} tokens": (lambda both: stages.prefill(both, PROMPT_TOKENS), REPEATS),
        f"one token after {PROMPT_TOKENS}": (lambda both: stages.decode(both, PROMPT_TOKENS), DECODE_REPEATS),
        "picture and question to first token": (lambda both: stages.first_token(both, PICTURE_SIZE), REPEATS),
    }
    rows = [compare(name, dtype, make(pair), repeats) for name, (make, repeats) in tqdm(named.items(), desc=dtype)]
    return rows + [experts(pair, tokens) for tokens in EXPERTS]


def encoding_memory(dtype: str) -> dict[str, Any]:
    """Bytes beyond the models, which are the same in each process of a kind."""
    found = processes.in_turn(lambda implementation: [str(MEMORY), implementation, dtype], 1)
    return row("memory while a picture of 7 tiles is encoded", dtype, found["encoding_bytes"], "bytes")


def measure() -> dict[str, Any]:
    """All figures, the float32 ones first, because their comparison tells most."""
    agreements, rows = {}, []
    for dtype, layers in LAYERS.items():
        pair = implementations(layers, dtype)
        name = str(dtype).removeprefix("torch.")
        agreements[name] = agreement(pair)
        rows += [{**each, "language_layers": layers} for each in timed(pair)]
        usual = pair[PORT].model.model.language_model.config._experts_implementation
        del pair
        rows.append(encoding_memory(name))
    stand_ins = {**STAND_INS, "experts in prompts and answers": f"transformers' default, {usual}"}
    return {"transformers_is": stand_ins, "picture": PICTURE_SIZE, "largest_difference": agreements, "rows": rows}


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    report("speed_vl2", measure(), stored=not arguments.no_result)


if __name__ == "__main__":
    main()
