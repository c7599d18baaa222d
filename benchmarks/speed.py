"""Times DeepSeek-VL-Hybrid stage by stage against transformers' own classes: published sizes, same random weights.

    python benchmarks/speed.py

The two are called in turn, in one process; loading and memory are measured in processes of their own, in turn, too. The
language model has fewer layers than the published 30, so that both fit and the run takes minutes. On a GPU the times
are those of its own clock.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import processes
import stages
from deepseek_vl_hf import prepack_weights
from environment import report
from port import DEVICE, OURS, PORT, implementations
from timing import Run, medians

LAYERS = 6
REPEATS = 3
DECODE_REPEATS = 31
PICTURES = (1, 2, 4, 8)
PROMPTS = (310, 620, 1240, 2480)


def row(stage: str, dtype: str, values: dict[str, float], unit: str = "seconds") -> dict[str, Any]:
    """What is stored of one comparison."""
    ratio = round(values[OURS] / values[PORT], 3)
    return {
        "stage": stage,
        "dtype": dtype,
        "unit": unit,
        **{name: values[name] for name in (OURS, PORT)},
        "ratio": ratio,
    }


def compare(stage: str, dtype: str, runs: dict[str, Run], repeats: int = REPEATS) -> dict[str, Any]:
    """Times a stage of both."""
    return row(stage, dtype, {name: round(value, 5) for name, value in medians(runs, repeats).items()})


def exponent(numbers: tuple[int, ...], seconds: list[float]) -> float:
    """The power of the number with which time grows: 1 is proportional."""
    return round(float(np.polyfit(np.log(numbers), np.log(seconds), 1)[0]), 3)


def growth(pair: stages.Pair) -> dict[str, Any]:
    """Our time for more pictures and longer prompts."""
    ours = {OURS: pair[OURS]}
    pictures = [medians(stages.images(ours, number), 3)[OURS] for number in PICTURES]
    prompts = [medians(stages.prefill(ours, tokens), 3)[OURS] for tokens in PROMPTS]
    return {
        "pictures": {"numbers": PICTURES, "seconds": pictures, "exponent": exponent(PICTURES, pictures)},
        "prompt_tokens": {"numbers": PROMPTS, "seconds": prompts, "exponent": exponent(PROMPTS, prompts)},
    }


@torch.no_grad()
def towers_in(dtype: str, pair: stages.Pair) -> list[dict[str, Any]]:
    """The stages in front of the language model."""
    named: dict[str, Callable[[stages.Pair], Any]] = {
        "SAM": stages.sam,
        "SigLIP": stages.siglip,
        "aligner": stages.aligner,
        "both towers and aligner": stages.images,
    }
    return [compare(name, dtype, make(pair)) for name, make in tqdm(named.items(), desc=dtype)]


@torch.no_grad()
def language_in(dtype: str, pair: stages.Pair) -> list[dict[str, Any]]:
    """Prompts and answers."""
    return [
        compare("four pictures", dtype, stages.images(pair, 4), REPEATS),
        compare("prompt of 620 tokens", dtype, stages.prefill(pair)),
        compare("one token after 620", dtype, stages.decode(pair), DECODE_REPEATS),
        compare("picture and question to first token", dtype, stages.first_token(pair)),
    ]


def measure(folder: Path) -> dict[str, Any]:
    """All figures.

    Args:
        folder: where a checkpoint of 5 GB can be written.
    """
    pair = implementations(LAYERS, torch.bfloat16)
    rows = [
        compare("one picture preprocessed (Pillow)", "uint8", stages.preprocessing(pair, 1), 15),
        compare("16 pictures preprocessed (Pillow)", "uint8", stages.preprocessing(pair, 16), REPEATS),
        *towers_in("bfloat16", pair),
        *language_in("bfloat16", pair),
    ]
    with torch.no_grad():
        curves = growth(pair)
    pair[OURS].model.save_pretrained(folder)
    rows += prepacked(pair)
    del pair
    found = processes.measure(folder, 3)
    rows.append(row("loading", "bfloat16", found["load_seconds"]))
    rows.append(row("memory while a picture is encoded", "bfloat16", found["encoding_bytes"], "bytes"))
    exact = implementations(0, torch.float32)
    rows += [*towers_in("float32", exact), *prepacked(exact)]
    return {"language_layers": LAYERS, "picture": stages.PICTURE_SIZE, "rows": rows, "growth": curves}


@torch.no_grad()
def prepacked(pair: stages.Pair) -> list[dict[str, Any]]:
    """What linear layers take most of, ours with prepacked weights, which it keeps; nothing on a GPU."""
    if DEVICE != "cpu":
        return []
    prepack_weights(pair[OURS].model)
    dtype = str(pair[OURS].model.dtype).removeprefix("torch.")
    named: dict[str, tuple[Callable[[stages.Pair], Any], int]] = {"both towers and aligner": (stages.images, REPEATS)}
    if pair[OURS].model.config.text_config.num_hidden_layers:
        named |= {
            "prompt of 620 tokens": (stages.prefill, REPEATS),
            "one token after 620": (stages.decode, DECODE_REPEATS),
            "picture and question to first token": (stages.first_token, REPEATS),
        }
    return [compare(f"{name}, prepacked", dtype, make(pair), repeats) for name, (make, repeats) in tqdm(named.items())]


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes (default: the system's)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        figures = measure(Path(temporary))
    report("speed", figures, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
