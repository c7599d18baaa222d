"""Times a token of an answer after a growing context, with this package's cache and attention and transformers' own.

    python benchmarks/decoding.py

Language layers of the size of DeepSeek-VL 7B, fewer of them than the published model has, with random weights, in
bfloat16 and with 4 bits; called in turn, in one process. Embeddings and lm_head are left out.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, Cache, DynamicCache

from deepseek_vl_hf import int4_config
from deepseek_vl_hf.hf.attention import SDPA_BY_DEVICE
from deepseek_vl_hf.hf.cache import growing_cache
from deepseek_vl_hf.hf.versions import CACHE
from environment import report
from random_checkpoint import write_checkpoint
from timing import Run, medians

SIZE = "deepseek-vl-7b"
LAYERS = 3
CONTEXTS = (620, 2048, 4096)
PROMPT_PIECE = 512
REPEATS = 21
OURS, THEIRS = "deepseek_vl_hf", "transformers"


def step(text: Any, cache: Cache, implementation: str, context: int) -> Run:
    """One token after a context that is read here, and which grows with each call as in an answer."""
    states = torch.randn(1, context, text.config.hidden_size, dtype=torch.bfloat16)
    for piece in states.split(PROMPT_PIECE, dim=1):
        text(inputs_embeds=piece, **{CACHE: cache})

    def run() -> None:
        text.set_attn_implementation(implementation)
        text(inputs_embeds=states[:, :1], **{CACHE: cache})

    return run


def rows(model: Any, weights: str) -> list[dict[str, Any]]:
    """One for each context."""
    text = model.model.language_model
    found = []
    for context in tqdm(CONTEXTS, desc=weights):
        runs = {
            OURS: step(text, growing_cache(text.config), SDPA_BY_DEVICE, context),
            THEIRS: step(text, DynamicCache(config=text.config), "sdpa", context),
        }
        seconds = medians(runs, REPEATS)
        found.append(
            {
                "weights": weights,
                "context": context,
                "seconds": {name: round(value, 5) for name, value in seconds.items()},
                "ratio": round(seconds[OURS] / seconds[THEIRS], 3),
            }
        )
    return found


@torch.no_grad()
def measure(folder: Path) -> list[dict[str, Any]]:
    """All rows; `folder` must have room for a few GB."""
    write_checkpoint(folder / SIZE, SIZE, LAYERS)
    figures = []
    for weights, quantization in (("bfloat16", None), ("int4", int4_config(device="cpu"))):
        model = AutoModelForImageTextToText.from_pretrained(
            folder / SIZE, dtype=torch.bfloat16, quantization_config=quantization
        )
        figures += rows(model.eval(), weights)
    return figures


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes (default: the system's)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        figures = {"size": SIZE, "language_layers": LAYERS, "rows": measure(Path(temporary))}
    report("decoding", figures, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
