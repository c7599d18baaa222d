"""Times language models of published layer sizes with 4-bit weights against bfloat16, on the CPU; random weights.

    python benchmarks/int4.py

The models are called in turn, in one process. They have fewer layers than the published ones; embeddings and lm_head,
which keep their type, are left out of the times. "prepacked" is bfloat16 after `prepack_weights`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModelForImageTextToText

from deepseek_vl_hf import int4_config, prepack_weights, quantization_report
from deepseek_vl_hf.hf.cache import growing_cache
from deepseek_vl_hf.hf.versions import CACHE
from environment import report
from random_checkpoint import write_checkpoint
from timing import Run, medians

LAYERS = {"deepseek-vl-7b": 3, "deepseek-vl2-small": 4}
GROUP_SIZE = 128
PROMPT_TOKENS = 620
TOKENS = {1: 41, 4: 21, 16: 11, 64: 7, 128: 7, PROMPT_TOKENS: 5}  # and how often each is timed
INT4, BFLOAT16, PREPACKED = "int4", "bfloat16", "bfloat16 prepacked"

Models = dict[str, Any]


def load(folder: Path, **options: Any) -> Any:
    """A checkpoint in bfloat16."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()


def layers_run(model: Any, tokens: int, cached: int) -> Run:
    """The language model's layers, a number of tokens after a number of cached ones."""
    text = model.model.language_model
    states = torch.randn(1, PROMPT_TOKENS, model.config.text_config.hidden_size, dtype=torch.bfloat16)
    cache = growing_cache(text.config) if cached else None  # as `generate` makes it
    if cached:
        text(inputs_embeds=states[:, :cached], **{CACHE: cache})

    def run() -> Any:
        output = text(inputs_embeds=states[:, :tokens], **{CACHE: cache}, use_cache=True)
        if cache is not None and tokens > 1:  # single ones grow on as in an answer
            cache.crop(-tokens)
        return output

    return run


def products_run(model: Any, names: list[str]) -> Run:
    """One token through the linear layers alone, one after the other."""
    weights = [model.get_parameter(name) for name in names]
    inputs = [torch.randn(1, weight.shape[-1], dtype=torch.bfloat16) for weight in weights]
    return lambda: [functional.linear(*pair) for pair in zip(inputs, weights, strict=True)]


def rows(models: Models, tokens: int, cached: int) -> dict[str, Any]:
    """Medians for the same number of tokens, and our ratio to bfloat16."""
    runs = {name: layers_run(model, tokens, cached) for name, model in models.items()}
    return row(tokens, cached, medians(runs, TOKENS[tokens]))


def row(tokens: int, cached: int, seconds: dict[str, float]) -> dict[str, Any]:
    """What is stored of one comparison."""
    ratio = round(seconds[INT4] / seconds[BFLOAT16], 3)
    rounded = {name: round(value, 5) for name, value in seconds.items()}
    return {"tokens": tokens, "cached": cached, "seconds": rounded, "ratio": ratio}


def seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result, and how long it took."""
    start = time.perf_counter()
    result = call()
    return result, round(time.perf_counter() - start, 2)


@torch.no_grad()
def measure(folder: Path, size: str) -> dict[str, Any]:
    """All figures of one size.

    Args:
        folder: where checkpoints of a few GB can be written.
        size: of LAYERS.
    """
    source = folder / size
    write_checkpoint(source, size, LAYERS[size])
    models = {BFLOAT16: load(source)}
    quantized, quantizing = seconds(lambda: load(source, quantization_config=int4_config(GROUP_SIZE, "cpu")))
    models = {INT4: quantized, **models}
    report = quantization_report(quantized)
    linear = [layer.name for layer in report.quantized if len(layer.shape) == 2]
    products = medians({name: products_run(model, linear) for name, model in models.items()}, TOKENS[1])
    _, saving = seconds(lambda: quantized.save_pretrained(folder / "saved"))
    again, loading = seconds(lambda: load(folder / "saved"))
    ids = torch.arange(5, 45)[None]
    identical = torch.equal(again(input_ids=ids).logits, quantized(input_ids=ids).logits)
    del again
    models[PREPACKED] = prepack_weights(load(source))
    timed = [
        rows(models, tokens, 0 if tokens == PROMPT_TOKENS else PROMPT_TOKENS) for tokens in tqdm(TOKENS, desc=size)
    ]
    return {
        "size": size,
        "language_layers": LAYERS[size],
        "quantized_layers": len(report.quantized),
        "group_sizes": sorted({layer.group_size for layer in report.quantized if layer.group_size}),
        "weights_ratio": round(report.ratio, 4),
        "linear_layers_alone": row(1, 0, products),
        "layers": timed,
        "quantizing_seconds": quantizing,
        "saving_seconds": saving,
        "loading_saved_seconds": loading,
        "saved_and_loaded_identical": identical,
    }


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes (default: the system's)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    sizes = []
    for size in LAYERS:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
            sizes.append(measure(Path(temporary), size))
    figures = {"group_size": GROUP_SIZE, "sizes": sizes}
    report("int4", figures, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
