"""Times training DeepSeek-VL-Hybrid against a plain `Trainer` on transformers' own classes, and measures its memory.

    python benchmarks/training.py

Published widths, two layers each of the language model and of both towers (of SAM's a windowed and a whole-grid one,
which are eight and four of its twelve), random weights that both sides load. The port's user writes a row for each
question, below each other; this package also takes all questions about a picture in one conversation, and both are
measured, so that it can be told what the model saves and what the rows save. `training_rows.py` has the rows,
`training_side.py` what is trained.

Each side is a process of its own, in turn and back again, so that the machine's moods hit both; of its two steps the
second is timed, its batches included. Loss and gradient of that step have to be the same on both sides where the rows
are. In the stages, plain gradient descent does the steps: the states of AdamW, 10 GB, would be the same on both sides
and leave no room beside them.

It takes 3 GB of disk and, for the port, 20 GB of memory; on two idle cores with bfloat16 a quarter of an hour.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoTokenizer

from deepseek_vl_hf import DeepseekVLHybridConfig, DeepseekVLHybridForConditionalGeneration
from environment import report
from port import OURS, PORT, TOKENIZER, build
from processes import last_line_of
from training_rows import QUESTIONS, SAME_ROWS, WAYS, check_same_batches
from training_side import DTYPE, RECIPES, optimizer_of

SIDE = Path(__file__).parent / "training_side.py"
ORDER = (PORT, OURS, SAME_ROWS, OURS, PORT)
LAYERS = 2
NEEDED_BYTES = 20e9
NARROW = {"hidden_size": 1024, "intermediate_size": 2752, "num_attention_heads": 8, "num_key_value_heads": 8}
# Between both sides where the rows are the same. bfloat16 and unlike reducing of the picture make a loss differ by 7e-5
# and a gradient by 4e-4 of itself; an answer without its end would by 9e-4 and 2e-2, BGR pixels by 2e-4 and 2e-2.
LOSS_TOLERANCE = 3e-4
GRADIENT_TOLERANCE = 4e-3

Figures = dict[str, Any]


def config_with(layers: int, text: dict[str, int]) -> DeepseekVLHybridConfig:
    """Published widths with fewer layers, and with the tokenizer's image token."""
    config = DeepseekVLHybridConfig()
    for name, value in {"num_hidden_layers": layers, **text}.items():
        setattr(config.text_config, name, value)
    if text:
        config.text_config.head_dim = text["hidden_size"] // text["num_attention_heads"]
    config.vision_config.num_hidden_layers = layers
    config.high_res_vision_config.num_hidden_layers = layers
    config.high_res_vision_config.global_attn_indexes = [layers - 1]
    config.image_token_id = AutoTokenizer.from_pretrained(TOKENIZER).convert_tokens_to_ids("<image_placeholder>")
    return config


@torch.no_grad()
def write_checkpoint(folder: Path, config: DeepseekVLHybridConfig) -> None:
    """Random weights in the layout that both sides read; norms pass on what they are given."""
    model = build(DeepseekVLHybridForConditionalGeneration, config, torch.bfloat16)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.fill_(1)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.normal_(std=0.02)
    model.save_pretrained(folder)


def in_turn(checkpoint: Path, folder: Path, order: Sequence[str]) -> dict[str, list[Figures]]:
    """What each side's processes found."""
    found: dict[str, list[Figures]] = {way: [] for way in WAYS}
    for way in tqdm(order):
        found[way].append(last_line_of([str(SIDE), way, str(checkpoint), str(folder)]))
    return found


def row(recipe: str, found: dict[str, list[Figures]]) -> Figures:
    """What is stored of one recipe: medians, and their ratios to the port's."""
    medians = {
        figure: {way: statistics.median(run[recipe][figure] for run in runs) for way, runs in found.items()}
        for figure in found[PORT][0][recipe]
    }
    kept = medians.pop("kept_bytes")
    medians["peak_beyond_kept_bytes"] = {way: value - kept[way] for way, value in medians["peak_bytes"].items()}
    compared = ("seconds", "peak_bytes", "peak_beyond_kept_bytes")
    ratios = {name: {way: round(medians[name][way] / medians[name][PORT], 3) for way in WAYS[1:]} for name in compared}
    return {
        "recipe": recipe,
        "optimizer": optimizer_of(RECIPES[recipe]),
        "kept_bytes": kept[PORT],
        **medians,
        "ratios": ratios,
    }


def check_same_training(rows: list[Figures]) -> None:
    """Raises ValueError if both sides computed something else from the same rows."""
    for each in rows:
        for name, tolerance in (("loss", LOSS_TOLERANCE), ("gradient_norm", GRADIENT_TOLERANCE)):
            port, ours = each[name][PORT], each[name][SAME_ROWS]
            if abs(ours / port - 1) > tolerance:
                raise ValueError(
                    f"{each['recipe']}: {name} {ours} from our side and {port} from transformers'; of the same rows "
                    f"they may differ by {tolerance} of themselves."
                )


def measure(folder: Path, narrow: bool) -> Figures:
    """All figures.

    Args:
        folder: where the checkpoint goes.
        narrow: a narrow language model and each side once, to see whether everything runs.
    """
    tokens = check_same_batches()
    config = config_with(LAYERS, NARROW if narrow else {})
    write_checkpoint(folder / "checkpoint", config)
    found = in_turn(folder / "checkpoint", folder / "output", WAYS if narrow else ORDER)
    rows = [row(recipe, found) for recipe in RECIPES]
    check_same_training(rows)
    return {
        "layers": LAYERS,
        "hidden_size": config.text_config.hidden_size,
        "vocabulary": config.text_config.vocab_size,
        "dtype": str(DTYPE).removeprefix("torch."),
        "questions": len(QUESTIONS),
        **tokens,
        "runs": {way: len(runs) for way, runs in found.items()},
        "rows": rows,
    }


def check_memory() -> None:
    """Raises MemoryError rather than have the system end a process of the port in the middle."""
    free = int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) * 1024
    if free < NEEDED_BYTES:
        raise MemoryError(f"{free / 1e9:.1f} GB of memory are free; transformers' side needs {NEEDED_BYTES / 1e9:.0f}.")


def main() -> int:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes (default: the system's)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    parser.add_argument("--quick", action="store_true", help="a narrow language model, once; nothing is stored")
    arguments = parser.parse_args()
    if not arguments.quick:
        check_memory()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        figures = measure(Path(temporary), arguments.quick)
    report("training", figures, stored=not (arguments.no_result or arguments.quick))
    return 0


if __name__ == "__main__":
    sys.exit(main())
