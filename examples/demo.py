"""The main job from end to end: open an original checkpoint, convert it, and let the pipeline answer about pictures.

With --boxes a small DeepSeek-VL2 also finds things in a picture, and their boxes are drawn into it.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from deepseek_vl_command.quiet import without_complaints_of_torchao

with without_complaints_of_torchao():
    from PIL import Image
    from transformers import pipeline
    from transformers.utils import logging

    import deepseek_vl_hf
    from deepseek_vl_hf.checkpoints import NothingToConvertError, convert_checkpoint
    from deepseek_vl_hf.checkpoints.layouts.files import named_folder
    from deepseek_vl_hf.pictures.drawing import draw_boxes
    from overlaps import Box, same_places

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

PLACES = "places"
# What is to be found in this example picture, and where it is, in pixels.
FINDS: dict[str, list[Box]] = {
    "the green star": [(35, 85, 89, 139)],
    "all circles": [(132, 24, 192, 84), (34, 160, 82, 208)],
    "all shapes": [(132, 24, 192, 84), (35, 85, 89, 139), (34, 160, 82, 208), (133, 135, 191, 193)],
}


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


def find(drawing: Path) -> int:
    """Lets nano-vl2 find things, and draws them; returns how many it found, with boxes that share half with theirs."""
    step("Finding things with nano-vl2")
    chat = deepseek_vl_hf.Chat.from_pretrained("nano-vl2")
    picture = deepseek_vl_hf.example_picture(PLACES)
    labels, boxes, right = [], [], 0
    for name, expected in FINDS.items():
        chat.new()
        (found,) = chat.processor.post_process_grounding(
            chat.ask(f"<|ref|>{name}<|/ref|>", [picture]), Image.open(picture)
        )
        given = [box for boxes_of_one in found.boxes for box in boxes_of_one]
        right += same_places(expected, given)
        labels += found.labels
        boxes += found.boxes
        print(f"{PLACES}  {name}  {given}  (expected about {expected})", flush=True)
    drawing.parent.mkdir(parents=True, exist_ok=True)
    draw_boxes(picture, labels, boxes).save(drawing)
    print(f"The boxes are drawn in {drawing}")
    return right


def main() -> int:
    """Runs the steps; the exit status is 0 if the small models' answers were right, or another model was asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", nargs="?", default="nano", help="nano, or a checkpoint's folder (default: %(default)s)"
    )
    parser.add_argument("--boxes", type=Path, metavar="PNG", help="where the picture with boxes goes")
    parser.add_argument("--max-new-tokens", type=int, default=40, help="length of the answers (default: %(default)s)")
    options = parser.parse_args()
    logging.disable_progress_bar()
    print(f"deepseek_vl_hf {deepseek_vl_hf.__version__}")
    try:
        right = show(named_folder(options.model), options.max_new_tokens)
        found = find(options.boxes) if options.boxes else len(FINDS)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nDone: {' and '.join(map(str, right))} of {len(QUESTIONS)} answers are right to the letter.")
    if options.boxes:
        print(f"{found} of {len(FINDS)} things are where they should be.")
    return 0 if options.model != "nano" or (min(right) == len(QUESTIONS) and found == len(FINDS)) else 1


if __name__ == "__main__":
    sys.exit(main())
