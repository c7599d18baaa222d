"""The main job from end to end: convert an original checkpoint, then let the pipeline answer about pictures."""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from transformers import pipeline
from transformers.utils import logging

import deepseek_vl_hf
from deepseek_vl_hf.checkpoints import convert_checkpoint

ROOT = Path(__file__).parent.parent
SHIPPED_CHECKPOINTS = (
    ROOT / "tests" / "fixtures" / "vl" / "checkpoint",
    ROOT / "tests" / "fixtures" / "vl_hybrid" / "checkpoint",
)
QUESTIONS = {
    "chart.png": "Which month had the most rain?",
    "page.png": "How many steps did the keeper climb?",
    "scene.png": "Describe this image.",
}


def step(text: str) -> None:
    """Announces what happens next."""
    print(f"\n== {text}", flush=True)


def answer(model: Path, max_new_tokens: int) -> None:
    """Asks one question about each example picture."""
    # bfloat16: the files are float16, which is slow on CPUs.
    pipe = pipeline("image-text-to-text", model=str(model), dtype=torch.bfloat16)
    print(f"{type(pipe.model).__module__}.{type(pipe.model).__name__} on {pipe.device}, {pipe.model.dtype}")
    for name, question in QUESTIONS.items():
        picture = ROOT / "examples" / "pictures" / name
        content = [{"type": "image", "path": str(picture)}, {"type": "text", "text": question}]
        start = time.perf_counter()
        result = pipe(
            text=[{"role": "user", "content": content}], max_new_tokens=max_new_tokens, return_full_text=False
        )
        seconds = time.perf_counter() - start
        print(f"\n{picture.relative_to(ROOT)}\n  question: {question}\n  answer:   {result[0]['generated_text']!r}")
        print(f"  ({seconds:.1f} s)")


def show(source: Path, name: str, max_new_tokens: int, weights_are_random: bool) -> None:
    """Converts one checkpoint and asks about the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        step(f"Converting the original checkpoint {name}")
        convert_checkpoint(source, Path(folder) / "model", report=print)
        step("Asking about the example pictures")
        if weights_are_random:
            print(
                "NOTE: the shipped weights are small and random, so these answers are noise. They show that the chain"
            )
            print("works. For real answers: python examples/demo.py PATH/TO/deepseek-vl-1.3b-chat")
        answer(Path(folder) / "model", max_new_tokens)


def main() -> None:
    """Parses the command line and runs the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source", nargs="?", type=Path, help="folder of an original checkpoint (default: the shipped ones in turn)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=20, help="length of the answers (default: %(default)s)")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    print(f"deepseek_vl_hf {deepseek_vl_hf.__version__}")
    if arguments.source is not None:
        show(arguments.source, arguments.source.name, arguments.max_new_tokens, weights_are_random=False)
    else:
        for source in SHIPPED_CHECKPOINTS:
            show(source, str(source.relative_to(ROOT)), arguments.max_new_tokens, weights_are_random=True)
    print("\nDone.")


if __name__ == "__main__":
    main()
