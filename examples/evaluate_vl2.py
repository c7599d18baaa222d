"""Measures a nano-vl2 model on held-out pictures, as JSON: exact answers by kind, boxes, and what tiles and experts do.

Every question is asked by itself and answered greedily. Measured are float32, bfloat16, 4-bit weights, float32 without
tiles, and float32 with the routed experts switched off. A box counts as found if it and the right one share at least
half of what they cover together.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from deepseek_vl_command.arguments import add_debug
from deepseek_vl_hf import int4_config
from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.checkpoints.layouts.files import named_folder
from deepseek_vl_hf.cli.console import run_command
from deepseek_vl_hf.models.deepseek_moe.experts import DeepseekMoeExperts, DeepseekMoeRouter
from deepseek_vl_hf.models.grounding import find_boxes
from evaluate import PACKAGES, fingerprint, run, texts_of
from nano_vl2.dataset import SHARES, Example, content, example
from overlaps import Box, matches, same_places

BOXED = ("find", "find_all", "caption")  # kinds whose answers are compared box by box
THOUSAND = (999, 999)  # a picture of that size has boxes in pixels as the model writes them


def evaluate(source: str, pictures: int, kinds: Sequence[str] = ()) -> dict[str, Any]:
    """All figures of a model.

    Args:
        source: nano-vl2, or a checkpoint's folder in the original or the transformers layout.
        pictures: how many held-out pictures to ask about.
        kinds: of `dataset.SHARES`, in turn; all by their shares if there are none.

    Raises:
        ValueError: fewer than one picture, or a model of another family.
    """
    if pictures < 1:
        raise ValueError(f"pictures is {pictures}; expected at least 1.")
    folder = named_folder(source)
    model_type = AutoConfig.from_pretrained(folder).model_type
    if model_type != "deepseek_vl2":
        raise ValueError(f"{source} is a {model_type}; expected a deepseek_vl2.")
    examples = [
        example("held-out", number, kind=kinds[number % len(kinds)] if kinds else None) for number in range(pictures)
    ]
    processor = AutoProcessor.from_pretrained(folder)
    model = _load(folder)
    with counted(model) as counts:
        exact = ask(model, processor, examples, "float32")
    given = {
        "float32": exact,
        "bfloat16": ask(_load(folder, dtype=torch.bfloat16), processor, examples, "bfloat16"),
        "int4": ask(_load(folder, quantization_config=int4_config(32)), processor, examples, "int4"),
        "float32, no tiles": ask(model, processor, examples, "no tiles", tiling=False),
    }
    with without_experts(model):
        given["float32, no routed experts"] = ask(model, processor, examples, "no experts")
    asked = [(turn.kind, turn.answer) for one in examples for turn in one.turns]
    return {
        "model": source,
        "weights_sha256": fingerprint(folder),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "held_out_pictures": pictures,
        "kinds_of_pictures": list(kinds) or list(SHARES),
        "questions": _count(asked),
        "accuracy": {name: accuracy(asked, texts) for name, texts in given.items()},
        "boxes": {name: box_figures(asked, texts) for name, texts in given.items()},
        "bfloat16_equal_answers": _equal(exact, given["bfloat16"]),
        "int4_equal_answers": _equal(exact, given["int4"]),
        "expert_shares": [_shares(each) for each in counts],
        "converted_answers_equal": exact == _converted(folder, examples),
        "versions": {package: version(package) for package in PACKAGES},
    }


def _load(folder: Path, **kwargs: Any) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = {"dtype": torch.float32, **kwargs}
    return AutoModelForImageTextToText.from_pretrained(folder, **arguments).to(device).eval()


def ask(model: Any, processor: Any, examples: list[Example], label: str, **kwargs: Any) -> list[str]:
    """The answer to every turn of every example, with its control tokens apart from EOS."""
    contents = [content(one, turn) for one in examples for turn in one.turns]
    texts = texts_of(model, processor, contents, label, skip_special_tokens=False, **kwargs)
    tokenizer = processor.tokenizer
    return [text.split(tokenizer.eos_token)[0].replace(tokenizer.pad_token, "").strip() for text in texts]


def _count(asked: list[tuple[str, str]]) -> dict[str, int]:
    kinds = [kind for kind, _ in asked]
    return {kind: kinds.count(kind) for kind in sorted({*kinds})}


def accuracy(asked: list[tuple[str, str]], given: list[str]) -> dict[str, float]:
    """Share of right answers by kind: to the letter, or with boxes, every name with just its boxes."""
    right: dict[str, list[bool]] = defaultdict(list)
    for (kind, answer), text in zip(asked, given, strict=True):
        right[kind].append(_same_boxes(answer, text) if kind in BOXED else text == answer)
    return {kind: round(sum(values) / len(values), 4) for kind, values in sorted(right.items())}


def _same_boxes(expected: str, given: str) -> bool:
    one, other = find_boxes(expected, THOUSAND), find_boxes(given, THOUSAND)
    counts = [len(boxes) for boxes in one.boxes] == [len(boxes) for boxes in other.boxes]
    return one.labels == other.labels and counts and all(map(same_places, one.boxes, other.boxes))


def box_figures(asked: list[tuple[str, str]], given: list[str]) -> dict[str, dict[str, float]]:
    """Recall and precision of boxes by kind; under the same name, in captions."""
    figures = {}
    for wanted in BOXED:
        found = right = written = 0
        for (kind, answer), text in zip(asked, given, strict=True):
            if kind == wanted:
                expected, actual = _by_name(answer), _by_name(text)
                right += sum(map(len, expected.values()))
                written += sum(map(len, actual.values()))
                found += sum(matches(boxes, actual.get(name, [])) for name, boxes in expected.items())
        if right:
            figures[wanted] = {
                "recall": round(found / right, 4),
                "precision": round(found / written, 4) if written else 0.0,
            }
    return figures


def _by_name(text: str) -> dict[str, list[Box]]:
    found = find_boxes(text, THOUSAND)
    named: dict[str, list[Box]] = defaultdict(list)
    for label, boxes in zip(found.labels, found.boxes, strict=True):
        named[label] += boxes
    return named


def _equal(one: list[str], other: list[str]) -> float:
    return round(sum(map(str.__eq__, one, other)) / len(one), 4)


@contextmanager
def counted(model: Any) -> Iterator[list[torch.Tensor]]:
    """Counts meanwhile how often each layer's experts are chosen."""
    routers = [module for module in model.modules() if isinstance(module, DeepseekMoeRouter)]
    counts = [torch.zeros(len(router.weight), dtype=torch.long, device=model.device) for router in routers]
    with ExitStack() as stack:
        for router, total in zip(routers, counts, strict=True):

            def count(module: Any, inputs: Any, outputs: Any, total: torch.Tensor = total) -> None:
                total += outputs[2].flatten().bincount(minlength=len(total))

            stack.callback(router.register_forward_hook(count).remove)
        yield counts


def _shares(counts: torch.Tensor) -> list[float]:
    """How often each expert was chosen, as a multiple of an even share."""
    return [round(value, 3) for value in (counts / counts.float().mean()).tolist()]


@contextmanager
def without_experts(model: Any) -> Iterator[None]:
    """Lets the routed experts give zeros; the shared ones stay."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, DeepseekMoeExperts):
                hook = module.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
                stack.callback(hook.remove)
        yield


def _converted(folder: Path, examples: list[Example]) -> list[str]:
    """The answers of the same checkpoint in the transformers layout, converted back and opened again."""
    with tempfile.TemporaryDirectory() as scratch:
        converted, back = Path(scratch) / "model", Path(scratch) / "back"
        convert_checkpoint(folder, converted)
        convert_checkpoint(converted, back, to="original")
        if fingerprint(back) != fingerprint(folder):
            raise ValueError(f"{folder} converted and converted back has other weights.")
        return ask(_load(converted), AutoProcessor.from_pretrained(converted), examples, "converted")


def main() -> int:
    """Parses the command line and runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a checkpoint's folder")
    parser.add_argument("--pictures", type=int, default=600, help="held-out pictures (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the JSON goes (default: it is printed)")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=[*SHARES],
        default=[],
        help="kinds of pictures, in turn (default: by their shares)",
    )
    add_debug(parser)
    options = parser.parse_args()
    return run_command(partial(run, measure=partial(evaluate, kinds=options.kinds)), options)


if __name__ == "__main__":
    sys.exit(main())
