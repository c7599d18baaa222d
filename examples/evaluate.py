"""Measures a nano model on held-out scenes: the share of exact answers by kind of question, as JSON.

Every question is asked by itself, as the only turn of a conversation, and answered greedily. Measured are float32,
bfloat16, and float32 with the high-resolution path (SAM) zeroed, which shows what that path is for.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from deepseek_vl_command.arguments import add_debug
from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.checkpoints.layouts.files import named_folder
from deepseek_vl_hf.cli.console import run_command
from deepseek_vl_hf.training.collator import IGNORED, ConversationCollator
from nano.dataset import Example, conversation, example
from nano.drawing import draw_scene

BATCH = 32
LONGEST_ANSWER = 200
PACKAGES = ("transformers", "torch", "pillow")

Answers = list[list[str]]
Measure = Callable[[str, int], dict[str, Any]]


def evaluate(source: str, pictures: int) -> dict[str, Any]:
    """All figures of a model.

    Args:
        source: nano, or a checkpoint's folder in the original or the transformers layout.
        pictures: how many held-out pictures to ask about.

    Raises:
        ValueError: fewer than one picture, or a model without a high-resolution path.
    """
    if pictures < 1:
        raise ValueError(f"pictures is {pictures}; expected at least 1.")
    folder = named_folder(source)
    model_type = AutoConfig.from_pretrained(folder).model_type
    if model_type != "deepseek_vl_hybrid":
        raise ValueError(f"{source} is a {model_type}; expected a deepseek_vl_hybrid, whose SAM can be left out.")
    examples = [example("held-out", number) for number in range(pictures)]
    processor = AutoProcessor.from_pretrained(folder)
    exact = _load(folder, torch.float32)
    with without_sam(exact):
        blind = answers(exact, processor, examples, "SAM zeroed")
    direct = answers(exact, processor, examples, "float32")
    lower = _load(folder, torch.bfloat16)
    figures = {
        "float32": accuracy(examples, direct),
        "bfloat16": accuracy(examples, answers(lower, processor, examples, "bfloat16")),
        "float32, SAM zeroed": accuracy(examples, blind),
    }
    return {
        "model": source,
        "weights_sha256": fingerprint(folder),
        "parameters": sum(parameter.numel() for parameter in exact.parameters()),
        "held_out_pictures": pictures,
        "questions": count(examples),
        "accuracy": figures,
        "bfloat16_top1_agreement": agreement(exact, lower, processor, examples),
        "converted_answers_equal": direct == _converted_answers(folder, examples),
        "versions": {package: version(package) for package in PACKAGES},
    }


def fingerprint(folder: Path) -> str:
    """SHA-256 of the weight files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _load(folder: Path, dtype: torch.dtype) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).to(device).eval()


def answers(model: Any, processor: Any, examples: list[Example], label: str) -> Answers:
    """The model's answer to every turn of every example."""
    contents = [
        [{"type": "image", "image": picture}, {"type": "text", "text": f"\n{question}"}]
        for picture, question in _questions(examples)
    ]
    remaining = iter(texts_of(model, processor, contents, label))
    return [[next(remaining) for _ in one.turns] for one in examples]


@torch.no_grad()
def texts_of(
    model: Any, processor: Any, contents: list[Any], label: str, *, skip_special_tokens: bool = True, **kwargs: Any
) -> list[str]:
    """Greedy answers to users' messages, each the only one of its conversation.

    Args:
        model: any of our models.
        processor: its processor.
        contents: of the messages.
        label: for the progress bar.
        skip_special_tokens: in the answers.
        **kwargs: for the processor.
    """
    prompts = [[{"role": "user", "content": content}] for content in contents]
    texts: list[str] = []
    for start in tqdm(range(0, len(prompts), BATCH), desc=label, disable=None):
        inputs = processor.apply_chat_template(
            prompts[start : start + BATCH],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, **kwargs},
        ).to(model.device, model.dtype)
        ids = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=skip_special_tokens)]
    return texts


def _questions(examples: list[Example]) -> Iterator[tuple[Any, str]]:
    for one in examples:
        picture = draw_scene(one.scene, one.view)
        for turn in one.turns:
            yield picture, turn.question


def accuracy(examples: list[Example], given: Answers) -> dict[str, float]:
    """Share of exact answers by kind of question."""
    right: dict[str, list[bool]] = defaultdict(list)
    for one, texts in zip(examples, given, strict=True):
        for turn, text in zip(one.turns, texts, strict=True):
            right[turn.kind].append(text == turn.answer)
    return {kind: round(sum(values) / len(values), 4) for kind, values in sorted(right.items())}


def count(examples: list[Example]) -> dict[str, int]:
    """Number of questions by kind."""
    counts: dict[str, int] = defaultdict(int)
    for one in examples:
        for turn in one.turns:
            counts[turn.kind] += 1
    return dict(sorted(counts.items()))


@contextmanager
def without_sam(model: Any) -> Iterator[None]:
    """Lets the high-resolution path give zeros."""

    def zeros(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(output)

    hook = model.model.high_res_vision_proj.register_forward_hook(zeros)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def agreement(one: Any, other: Any, processor: Any, examples: list[Example]) -> float:
    """Share of answer tokens whose most likely value is the same for both models, given the right tokens before."""
    collate = ConversationCollator(processor)
    same = total = 0
    for start in range(0, len(examples), BATCH):
        batch = collate([conversation(each) for each in examples[start : start + BATCH]]).to(one.device)
        predicted = [_predictions(model, batch) for model in (one, other)]
        kept = batch["labels"][:, 1:] != IGNORED
        same += int((predicted[0] == predicted[1])[kept].sum())
        total += int(kept.sum())
    return round(same / total, 5)


def _predictions(model: Any, batch: Any) -> torch.Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return model(**inputs).logits[:, :-1].argmax(-1)


def _converted_answers(folder: Path, examples: list[Example]) -> Answers:
    """The answers of the same checkpoint in the transformers layout."""
    with tempfile.TemporaryDirectory() as scratch:
        convert_checkpoint(folder, Path(scratch) / "model")
        processor = AutoProcessor.from_pretrained(Path(scratch) / "model")
        return answers(_load(Path(scratch) / "model", torch.float32), processor, examples, "converted")


def run(options: argparse.Namespace, measure: Measure = evaluate) -> int:
    """Measures `options.model` and writes or prints its figures; returns the exit status."""
    if options.output and not options.output.resolve().parent.is_dir():
        raise FileNotFoundError(f"{options.output.parent} is no folder. Name an --output in one that exists.")
    text = json.dumps(measure(options.model, options.pictures), indent=2) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)
    return 0


def main() -> int:
    """Parses the command line and runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", nargs="?", default="nano", help="(default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=600, help="held-out pictures (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the JSON goes (default: it is printed)")
    add_debug(parser)
    return run_command(run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
