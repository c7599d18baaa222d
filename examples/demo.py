"""The main job from end to end: open an original checkpoint, convert it, and let the pipeline answer about pictures."""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from deepseek_vl_command.quiet import without_complaints_of_torchao

with without_complaints_of_torchao():
    from transformers import pipeline
    from transformers.utils import logging

    import deepseek_vl_hf
    from deepseek_vl_hf.checkpoints import NothingToConvertError, convert_checkpoint
    from deepseek_vl_hf.checkpoints.layouts.files import named_folder

PICTURES = Path(__file__).parent / "pictures"


class Question(NamedTuple):
    """A question about an example picture, and its answer."""

    picture: str
    text: str
    answer: str


QUESTIONS = (
    Question("shapes.png", "How many shapes are there?", "4"),
    Question("shapes.png", "What color is the star?", "green"),
    Question("shapes.png", "Where is the red circle relative to the blue square?", "left"),
    Question("words.png", "What does the red text say?", "OPEN"),
    Question("words.png", "What is written at the bottom?", "1276"),
    Question("chart.png", "Which bar is the tallest?", "K"),
    Question("chart.png", "哪个柱子最低？", "M"),
)


def step(text: str) -> None:
    """Announces what happens next."""
    print(f"\n== {text}", flush=True)


def answer(model: Path, max_new_tokens: int) -> int:
    """Asks the questions; returns how many answers are right to the letter."""
    pipe = pipeline("image-text-to-text", model=str(model), dtype=deepseek_vl_hf.fast_dtype())
    print(f"{type(pipe.model).__module__}.{type(pipe.model).__name__} on {pipe.device}, {pipe.model.dtype}")
    right = 0
    for picture, question, expected in QUESTIONS:
        content = [{"type": "image", "path": str(PICTURES / picture)}, {"type": "text", "text": f"\n{question}"}]
        start = time.perf_counter()
        messages = [{"role": "user", "content": content}]
        result = pipe(text=messages, max_new_tokens=max_new_tokens, return_full_text=False)
        seconds = time.perf_counter() - start
        given = result[0]["generated_text"].strip()
        right += given == expected
        print(f"{picture}  {question}  {given!r}  (expected {expected!r}, {seconds:.2f} s)", flush=True)
    return right


def show(source: Path, max_new_tokens: int) -> list[int]:
    """Asks the checkpoint as it is and, if it is an original one, converted; returns the numbers of right answers."""
    step(f"Opening {source}")
    right = [answer(source, max_new_tokens)]
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "model"
        try:
            step("Converting it to the transformers layout")
            convert_checkpoint(source, converted, report=print)
        except NothingToConvertError as nothing:
            print(nothing)
            return right
        step("Asking the converted checkpoint")
        return [*right, answer(converted, max_new_tokens)]


def main() -> int:
    """Runs the steps; the exit status is 0 if the nano model's answers were right, or another model was asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", nargs="?", default="nano", help="nano, or a checkpoint's folder (default: %(default)s)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=40, help="length of the answers (default: %(default)s)")
    options = parser.parse_args()
    logging.disable_progress_bar()
    print(f"deepseek_vl_hf {deepseek_vl_hf.__version__}")
    try:
        right = show(named_folder(options.model), options.max_new_tokens)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nDone: {' and '.join(map(str, right))} of {len(QUESTIONS)} answers are right to the letter.")
    return 0 if options.model != "nano" or min(right) == len(QUESTIONS) else 1


if __name__ == "__main__":
    sys.exit(main())
