"""Computes what memory training takes, for the published sizes and each recipe.

    python benchmarks/training_memory.py

Models of the published sizes are made without memory, as torch's fake tensors. The recipes' own code chooses what
learns, and a forward and a backward pass run over one sequence of 2048 tokens, the first of which are a picture's; a
quarter of them is learned. All tensors are counted for as long as they live: weights, gradients, and the most of
everything else, which is what is kept for the gradients, autocast's copies of weights that learn, and what exists for a
moment. Gradients are there from the beginning, as in all batches of a step but the first. What runs is what a GPU runs:
attention without kept scores, experts as grouped products. With 4-bit weights it is taken to be the same.

Optimizers are counted by the weights that learn: `bytes_of_optimizer` has the formula. A small model also runs for real
on this CPU, and its memory stands beside what is counted for it. It all takes some minutes, and 5 GB of memory.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm import tqdm
from transformers import AutoModelForImageTextToText
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from deepseek_vl_hf.hf.versions import CHECKPOINTING
from deepseek_vl_hf.models.deepseek_moe.experts import DeepseekMoeExperts, experts_at_once
from deepseek_vl_hf.models.deepseek_vl2.tiling import CANDIDATE_RESOLUTIONS, num_tiles, tile_grid
from deepseek_vl_hf.models.families import config_of
from deepseek_vl_hf.quantization.packing import group_size_for
from deepseek_vl_hf.training.lora import with_adapters
from deepseek_vl_hf.training.recipes import Recipe, set_what_learns
from environment import report
from live_bytes import LiveBytes
from peak_memory import watched_memory

CONFIGS = Path(__file__).parent.parent / "tests" / "fixtures" / "configs"
SIZES = {
    "DeepSeek-VL 1.3B": "deepseek-vl-1.3b-chat",
    "DeepSeek-VL 7B": "deepseek-vl-7b-chat",
    "DeepSeek-VL2 tiny": "deepseek-vl2-tiny",
    "DeepSeek-VL2 small": "deepseek-vl2-small",
    "DeepSeek-VL2": "deepseek-vl2",
}
RECIPES = {
    "--lora 16": Recipe(lora=16),
    "--lora 16 --int4": Recipe(lora=16, int4=True),
    **{f"--stage {stage}": Recipe(stage=stage) for stage in (1, 2, 3)},
    "--full": Recipe(full=True),
}
TOKENS, LEARNED = 2048, 512
PICTURE = (1024, 768)
TILE = 384
COMPUTED_IN = torch.bfloat16
# The name of the experts' products that a GPU computes, which would otherwise be chosen by the device.
AT_ONCE = "at_once"
# Of the small model that runs for real.
SMALL = {"num_hidden_layers": 4, "vocab_size": 8192, "pad_token_id": 0}
# By default the C library keeps much of what torch gives back to it.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# bitsandbytes keeps two bytes for a weight, and two float32 numbers for so many of them; embeddings, as Trainer asks
# for it, and tensors of fewer weights have states of 32 bits.
BLOCK_8_BIT, FEWEST_8_BIT = 256, 4096


def bytes_of_optimizer(model: nn.Module) -> dict[str, int]:
    """States of AdamW, what its step takes for a moment, and the states of bitsandbytes' 8-bit AdamW."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    in_8_bits = sum(
        parameter.numel()
        for parameter in learning
        if id(parameter) not in embeddings and parameter.numel() >= FEWEST_8_BIT
    )
    weights = sum(parameter.numel() for parameter in learning)
    return {
        "adamw": 8 * weights,
        "step_of_adamw_torch": 4 * weights,  # a square root for each weight: on GPUs it takes all weights at once
        "adamw_8bit": 2 * in_8_bits + 8 * in_8_bits // BLOCK_8_BIT + 8 * (weights - in_8_bits),
    }


def saved_by_4_bits(model: nn.Module) -> int:
    """By how many bytes the language model is smaller with 4-bit weights than in bfloat16."""
    saved = 0
    for name, module in model.named_modules():
        chosen = isinstance(module, nn.Linear | DeepseekMoeExperts) and not name.endswith("kv_b_proj")
        for weight in module.parameters(recurse=False) if chosen and ".language_model.layers." in name else ():
            group = group_size_for(tuple(weight.shape), 128)
            if group is not None:
                saved += 2 * weight.numel() - (weight.numel() // 2 + 4 * weight.numel() // group)
    return saved


def model_of(config: Any, recipe: Recipe, device: str) -> Any:
    """As `deepseek-vl train` loads it: what learns in float32, the rest in the type that is computed in."""
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=COMPUTED_IN)
        if config.model_type == "deepseek_vl2":
            model.set_experts_implementation({"text_config": AT_ONCE})
        if recipe.lora:
            return with_adapters(model, recipe.lora, experts=False, base="").train()
    set_what_learns(model, recipe.parts(config.model_type))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else COMPUTED_IN)
    return model.train()


def pictures(model_type: str) -> dict[str, torch.Tensor]:
    """What the towers read of one picture."""
    if model_type != "deepseek_vl2":
        sides = {"pixel_values": TILE, "high_res_pixel_values": 1024}
        names = sides if model_type == "deepseek_vl_hybrid" else ["pixel_values"]
        return {name: torch.zeros(1, 3, sides[name], sides[name]) for name in names}
    grid = tile_grid(*PICTURE, CANDIDATE_RESOLUTIONS, TILE)
    return {"pixel_values": torch.zeros(num_tiles(*grid), 3, TILE, TILE), "tile_grids": torch.tensor([grid])}


def loss_of(model: Any, pixels: dict[str, torch.Tensor]) -> torch.Tensor:
    """The forward pass, with the picture's tokens in front, so that nothing depends on what the ids are."""
    features = model.get_image_features(**pixels, return_dict=True).pooler_output
    image = features.flatten(0, 1) if isinstance(features, torch.Tensor) else torch.cat(list(features))
    ids = torch.zeros(1, TOKENS - len(image), dtype=torch.long)
    text = model.get_input_embeddings()(ids)
    embeds = torch.cat([image[None].to(text.dtype), text], 1)
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, -LEARNED:].flatten(0, 1))
    vocabulary = model.config.text_config.vocab_size
    labels = torch.zeros(LEARNED, dtype=torch.long)
    loss: torch.Tensor = model.loss_function(logits, None, vocabulary, shift_labels=labels)
    return loss


def forward_and_backward(model: Any, pixels: dict[str, torch.Tensor], checkpointing: bool) -> None:
    """What a batch of one sequence computes; autocast as in `ConversationTrainer`."""
    if checkpointing:
        options = {f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}}
        getattr(model, f"{CHECKPOINTING}_enable")(**options)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.autocast("cpu", COMPUTED_IN, cache_enabled=not checkpointing):
        loss = loss_of(base, pixels)
    loss.backward()


def counted(config: Any, recipe: Recipe, checkpointing: bool) -> dict[str, int]:
    """Bytes of weights, of gradients, and the most of everything else."""
    model = model_of(config, recipe, "meta")
    pixels = pictures(config.model_type)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        live = LiveBytes()
        weights = live.add([*model.parameters(), *model.buffers()])
        gradients = live.add(give_gradients(model))
        with live:
            forward_and_backward(model, pixels, checkpointing)
        return {"weights": weights, "gradients": gradients, "sequence": live.peak - weights - gradients}


def give_gradients(model: nn.Module) -> list[torch.Tensor]:
    """Gradients of zero for all weights that learn."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in learning if parameter.grad is not None]


def figures_of(folder: str, recipe: Recipe) -> dict[str, int]:
    """All that is stored of one size and one recipe."""
    config = config_of(CONFIGS / folder)
    model = model_of(config, recipe, "meta")
    found = counted(config, recipe, checkpointing=False)
    found["sequence_with_checkpointing"] = counted(config, recipe, checkpointing=True)["sequence"]
    found["weights"] -= saved_by_4_bits(model) if recipe.int4 else 0
    found["learning"] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {**found, **bytes_of_optimizer(model)}


def check() -> list[dict[str, Any]]:
    """What is counted for a small model, and the most that a real one took in this process."""
    found = []
    for checkpointing in (False, True):
        config = config_of(CONFIGS / SIZES["DeepSeek-VL 1.3B"])
        for name, value in SMALL.items():
            setattr(config.text_config, name, value)
        recipe = Recipe(full=True)
        count = counted(config, recipe, checkpointing)["sequence"]
        model = model_of(config, recipe, "cpu")
        give_gradients(model)
        pixels = pictures(config.model_type)
        with watched_memory() as memory:
            forward_and_backward(model, pixels, checkpointing)
        found.append({"checkpointing": checkpointing, "counted": count, "measured": memory.peak - memory.before})
    return found


def check_in_a_process() -> list[dict[str, Any]]:
    """`check` where what is free is given back at once."""
    command = [sys.executable, __file__, "--check"]
    result = subprocess.run(command, env={**os.environ, **GIVEN_BACK}, stdout=subprocess.PIPE, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Computes, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    parser.add_argument("--check", action="store_true", help="run the small model here, and print a line of JSON")
    arguments = parser.parse_args()
    if arguments.check:
        print(json.dumps(check()))
        return 0
    ALL_EXPERTS_FUNCTIONS.register(AT_ONCE, experts_at_once)
    sizes: dict[str, dict[str, Any]] = {size: {} for size in SIZES}
    for size, recipe in tqdm([(size, recipe) for size in SIZES for recipe in RECIPES]):
        sizes[size][recipe] = figures_of(SIZES[size], RECIPES[recipe])
    figures = {"tokens": TOKENS, "learnt": LEARNED, "picture": PICTURE, "check": check_in_a_process(), "bytes": sizes}
    report("training_memory", figures, stored=not arguments.no_result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
