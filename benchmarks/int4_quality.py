"""What 4-bit weights change: the nano model's answers about held-out pictures, and distributions of all families.

    python benchmarks/int4_quality.py

Compared with bfloat16, for each group size: the share of right answers, the KL divergence of the next token's
distribution and how often its most likely token is the same. The families' fixtures have random weights, whose
distributions are flat; the nano model is a trained one.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]

import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from deepseek_vl_hf import int4_config, nano_path, quantization_report
from deepseek_vl_hf.training.collator import IGNORED, ConversationCollator
from environment import report
from evaluate import BATCH, Example, accuracy, answers, count, example
from family import VL2_FAMILIES, VL_FAMILIES, FamilyFixture
from nano.dataset import conversation

GROUP_SIZES = (32, 64, 128)

# Logits of two models at the same positions, [positions, vocabulary].
Pairs = Iterable[tuple[torch.Tensor, torch.Tensor]]


def load(folder: Path, group_size: int | None = None) -> Any:
    """A checkpoint in bfloat16, or with 4-bit weights."""
    options = {} if group_size is None else {"quantization_config": int4_config(group_size, "cpu")}
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()


def distances(pairs: Pairs) -> dict[str, float]:
    """KL divergence of the second from the first in nats, and agreement of the most likely token; means."""
    divergence, same, total = 0.0, 0, 0
    for first, second in pairs:
        expected, found = (functional.log_softmax(logits.float(), -1) for logits in (first, second))
        divergence += functional.kl_div(found, expected, reduction="sum", log_target=True).item()
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
        total += len(expected)
    return {"kl_divergence": round(divergence / total, 6), "top1_agreement": round(same / total, 5)}


@torch.no_grad()
def answer_logits(one: Any, other: Any, processor: Any, examples: list[Example]) -> Iterator[Any]:
    """Of both models at every token of the right answers."""
    collate = ConversationCollator(processor)
    for start in range(0, len(examples), BATCH):
        batch = collate([conversation(each) for each in examples[start : start + BATCH]])
        kept = batch.pop("labels")[:, 1:] != IGNORED
        batch = batch.to(dtype=torch.bfloat16)
        yield tuple(model(**batch).logits[:, :-1][kept] for model in (one, other))


@torch.no_grad()
def prompt_logits(family: FamilyFixture, one: Any, other: Any) -> Iterator[Any]:
    """Of both models at every position of a family's prompts."""
    for case in range(len(family.conversations)):
        inputs = family.inputs(case).to(dtype=torch.bfloat16)
        yield tuple(model(**inputs).logits[0] for model in (one, other))


def nano(pictures: int) -> dict[str, Any]:
    """The nano model's figures."""
    examples = [example("held-out", number) for number in range(pictures)]
    processor = AutoProcessor.from_pretrained(nano_path())
    whole = load(nano_path())
    figures = {"bfloat16": right(examples, answers(whole, processor, examples, "bfloat16"))}
    for size in GROUP_SIZES:
        model = load(nano_path(), size)
        groups = {layer.group_size for layer in quantization_report(model).quantized}
        figures[str(size)] = {
            "group_sizes_used": sorted(group for group in groups if group),
            **right(examples, answers(model, processor, examples, f"groups of {size}")),
            **distances(answer_logits(whole, model, processor, examples)),
        }
    return {"held_out_pictures": pictures, "questions": count(examples), "figures": figures}


def right(examples: list[Example], given: Any) -> dict[str, Any]:
    """Shares of right answers: of all questions, and by kind."""
    by_kind = accuracy(examples, given)
    asked = count(examples)
    share = sum(by_kind[kind] * number for kind, number in asked.items()) / sum(asked.values())
    return {"right": round(share, 4), "right_by_kind": by_kind}


def fixtures() -> dict[str, Any]:
    """The families' figures."""
    found: dict[str, Any] = {}
    for name in tqdm((*VL_FAMILIES, *VL2_FAMILIES), desc="fixtures"):
        original = FamilyFixture(name, Path()).original
        family = FamilyFixture(name, original)  # the original layout opens directly
        whole = load(original)
        found[name] = {
            str(size): distances(prompt_logits(family, whole, load(original, size))) for size in GROUP_SIZES[:2]
        }
    return found


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=400, help="held-out pictures (default: %(default)s)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    figures = {"nano": nano(arguments.pictures), "fixtures": fixtures()}
    report("int4_quality", figures, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
