"""Times DeepSeek-OCR at its published size with random weights: a page's picture, pages in batches, repetition rules.

    python benchmarks/ocr.py

Encoding is timed beside transformers' classes for Unlimited-OCR (`port_ocr.py`), in turn, after both gave the same; the
memory that it takes is measured in processes of their own. Reading is timed with the whole language model, which takes
16 GB in float32. Random weights have nothing to say, so every answer is as long as it may be.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor

import processes
import stages
from deepseek_vl_hf import Chat, NgramBan, fast_dtype, prepack_weights
from deepseek_vl_hf.ocr.pages import Document, Page
from deepseek_vl_hf.ocr.reading import PageResult, Reader
from deepseek_vl_hf.ocr.repetition import OF_PDFS
from environment import report
from port import DEVICE, OURS
from port_ocr import implementations, ours
from speed import compare, row
from speed_vl2 import TOLERANCES, difference, features
from timing import seconds_of

# Pixels of a page's view of the whole, and of each tile, in the mode gundam; more tiles take as much time each.
WHOLE, TILE, GRID = 1024, 640, (1, 2)
REPEATS = 2
LAYERS = 12
PAGES, PAGE_TOKENS = 20, 50
# With two of the twelve layers a token takes a fraction of its time, and the rules a greater share of it.
LONG_ANSWER, RULE_LAYERS = 1000, 2
WHOLE_NGRAM = 20  # of the rule that `generate` has by itself
MEMORY = Path(__file__).parent / "memory_ocr.py"


def picture(pair: stages.Pair) -> stages.Runs:
    """The picture of a page with two tiles through SAM, CLIP and projector, joined."""
    generator, dtype = torch.Generator().manual_seed(0), pair[OURS].model.dtype
    whole, tiles = (
        torch.randn(count, 3, side, side, generator=generator).to(DEVICE, dtype)
        for count, side in ((1, WHOLE), (GRID[0] * GRID[1], TILE))
    )
    grids = torch.tensor([GRID])
    return stages.each(pair, lambda one: lambda: one.model.get_image_features(whole, grids, tiles, return_dict=True))


@torch.no_grad()
def encoding(dtype: torch.dtype) -> dict[str, Any]:
    """Time and memory of a page's picture, and its time with weights that are packed first.

    Raises:
        ValueError: the two do not give the same.
    """
    kind = str(dtype).removeprefix("torch.")
    pair = implementations(dtype)
    runs = picture(pair)
    found = [compared("picture of a page with two tiles", kind, runs)]
    if DEVICE == "cpu":
        prepack_weights(pair[OURS].model)
        found.append(compared("the same, prepacked", kind, runs))
    del runs, pair
    memory = processes.in_turn(lambda implementation: [str(MEMORY), implementation, kind], 1)["encoding_bytes"]
    return {
        "picture": {"whole": WHOLE, "tile": TILE, "grid": GRID},
        "largest_difference": max(each for each, _ in found),
        "rows": [*(each for _, each in found), row("memory meanwhile", kind, memory, "bytes")],
    }


def compared(stage: str, dtype: str, runs: stages.Runs) -> tuple[float, dict[str, Any]]:
    """How far the two are apart, and their times.

    Raises:
        ValueError: see `speed_vl2.difference`.
    """
    outputs = {name: features(run()) for name, run in runs.items()}
    return difference(stage, outputs, TOLERANCES[getattr(torch, dtype)]), compare(stage, dtype, runs, REPEATS)


def in_batches(chat: Chat) -> dict[str, Any]:
    """Pages per second, one after the other and all at once."""
    reader = Reader(chat, "<|grounding|>Convert the document to markdown. ", "tiny", PAGE_TOKENS)
    pages = [Page(Document(f"{number}.png"), number, stages.picture((1240, 1754))) for number in range(1, PAGES + 1)]

    def read(size: int, results: list[PageResult]) -> None:
        for start in range(0, PAGES, size):
            results += reader.read(pages[start : start + size])

    reader.read(pages[:1])
    found = {}
    for size in (1, PAGES):
        results: list[PageResult] = []
        passed = seconds_of(partial(read, size, results))
        tokens = {result.answer.new_tokens for result in results if result.answer}
        if tokens != {PAGE_TOKENS}:
            raise ValueError(f"Answers have {sorted(tokens)} tokens; expected {PAGE_TOKENS} each.")
        found[size] = PAGES / passed
    return {
        "mode": "tiny",
        "pages": PAGES,
        "new_tokens_per_page": PAGE_TOKENS,
        "pages_per_second": {"one by one": found[1], "all at once": found[PAGES]},
        "ratio": found[PAGES] / found[1],
    }


class Timed(LogitsProcessor):
    """A rule that adds up its seconds."""

    def __init__(self, rule: LogitsProcessor) -> None:
        self.rule, self.seconds = rule, 0.0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The rule's scores."""
        result: list[torch.FloatTensor] = []
        self.seconds += seconds_of(lambda: result.append(self.rule(input_ids, scores)))
        return result[0]


@torch.no_grad()
def with_rules(chat: Chat) -> dict[str, Any]:
    """What both rules take of a long answer's time."""
    ids = chat.processor.tokenizer("Read.", return_tensors="pt")["input_ids"].to(chat.model.device)
    rules = [
        Timed(NgramBan(WHOLE_NGRAM)),
        Timed(OF_PDFS.processors(chat.processor.tokenizer)[0]),
    ]
    settings = {"do_sample": False, "max_new_tokens": LONG_ANSWER, "no_repeat_ngram_size": 0}
    answers: list[torch.Tensor] = []
    passed = seconds_of(lambda: answers.append(chat.model.generate(input_ids=ids, logits_processor=rules, **settings)))
    (answer,) = answers
    if answer.shape[1] != ids.shape[1] + LONG_ANSWER:
        raise ValueError(f"The answer has {answer.shape[1] - ids.shape[1]} tokens; expected {LONG_ANSWER}.")
    taken = [rule.seconds for rule in rules]
    return {
        "new_tokens": LONG_ANSWER,
        "language_layers": RULE_LAYERS,
        "seconds": passed,
        "rule_seconds": taken,
        "share_beside_the_rest": sum(taken) / (passed - sum(taken)),
    }


def measure() -> dict[str, Any]:
    """All figures; each is told when it is known, because the whole takes a quarter of an hour."""
    dtype = fast_dtype()
    found: dict[str, Any] = {"transformers_is": "towers and projector of UnlimitedOcrModel"}
    found["encoding"] = told(encoding(dtype))
    for name, layers, measured in (("rules", RULE_LAYERS, with_rules), ("batches", LAYERS, in_batches)):
        model = ours(layers, dtype)
        found[name] = told(measured(Chat(model.model, model.processor)))
        del model
    return found


def told(figures: dict[str, Any]) -> dict[str, Any]:
    """Prints figures and returns them."""
    print(figures, file=sys.stderr, flush=True)
    return figures


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    report("ocr", measure(), stored=not arguments.no_result)


if __name__ == "__main__":
    main()
