"""What `deepseek-vl train` teaches: new tasks on pictures that training never showed, by every recipe.

    python benchmarks/training_tasks.py

Models are nano, and the small models with random weights that the tests use. Tasks: which team a flag is (a color is
answered by another one's name), reading a digit, and for DeepSeek-VL2 the box of a square. Adapters beside random
weights have nothing to stand on, so there they begin with what `--full` learned of another task. Exact answers count.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from PIL import Image, ImageDraw, ImageFont

from deepseek_vl_hf.cli import main as command
from environment import report
from family import convert_family

TEAMS = {"red": "blue", "green": "red", "blue": "yellow", "yellow": "green"}
OTHER_TEAMS = {"red": "yellow", "green": "blue", "blue": "green", "yellow": "red"}
ROWS, HELD_OUT = 96, 32
SIDE = 120

Row = dict[str, Any]


def flags(teams: dict[str, str]) -> Callable[[random.Random], tuple[Image.Image, Row]]:
    """Flags of one color, of any size."""

    def draw(rng: random.Random) -> tuple[Image.Image, Row]:
        color = rng.choice([*teams])
        picture = Image.new("RGB", (rng.randint(60, 200), rng.randint(60, 200)), color)
        return picture, row("Which team is this?", teams[color])

    return draw


def digits(rng: random.Random) -> tuple[Image.Image, Row]:
    """A digit that fills the picture."""
    value = rng.choice("0123456789")
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    place = (rng.randint(20, 40), rng.randint(-10, 10))
    ImageDraw.Draw(picture).text(place, value, "black", ImageFont.load_default(100))
    return picture, row("Which digit is this?", value)


def boxes(rng: random.Random) -> tuple[Image.Image, Row]:
    """A square in one of nine places, and its box in pixels."""
    left, top = (rng.randrange(3) * SIDE // 3 for _ in range(2))
    box = [left, top, left + SIDE // 3, top + SIDE // 3]
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(picture).rectangle([*box[:2], box[2] - 1, box[3] - 1], fill="red")
    objects = {"ref": ["the square", "the square"], "bbox": [box]}
    return picture, {**row("Find <ref-object>.", "<ref-object><bbox>"), "objects": objects}


def row(question: str, answer: str) -> Row:
    """A conversation about one picture."""
    return {"messages": [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]}


@dataclass(frozen=True)
class Lesson:
    """One run.

    Attributes:
        model: name of the model.
        task: name of the task.
        recipe: arguments of the command.
        rate: the learning rate.
        steps: of 8 rows.
        begins_with: the task of an earlier run with every weight, from whose result it begins; None for the model.
    """

    model: str
    task: str
    recipe: tuple[str, ...]
    rate: float
    steps: int
    begins_with: str | None = None


FULL, LORA, INT4 = ("--full",), ("--lora", "16"), ("--lora", "16", "--int4")
TASKS = {"flags": flags(TEAMS), "other flags": flags(OTHER_TEAMS), "digits": digits, "boxes": boxes}
LESSONS = (
    *(Lesson("nano", "flags", recipe, 3e-3, 40) for recipe in (LORA, INT4)),
    Lesson("nano", "flags", FULL, 1e-3, 40),
    Lesson("nano", "digits", FULL, 1e-3, 120),
    *(Lesson(name, "flags", FULL, 3e-3, 120) for name in ("vl", "vl2_mla")),
    *(Lesson(name, "other flags", recipe, 1e-2, 120, "flags") for name in ("vl", "vl2_mla") for recipe in (LORA, INT4)),
    Lesson("vl2_mla", "boxes", FULL, 3e-3, 200),
)


def write_rows(draw: Callable[[random.Random], tuple[Image.Image, Row]], folder: Path, name: str, count: int) -> Path:
    """Draws rows and writes them; each name of a file has pictures of its own."""
    rng, path = random.Random(f"{name} {count}"), folder / f"{name}.jsonl"
    rows = []
    for number in range(count):
        picture, one = draw(rng)
        picture.save(folder / f"{name} {number}.png")
        rows.append({**one, "images": [f"{name} {number}.png"]})
    path.write_text("".join(f"{json.dumps(one)}\n" for one in rows), encoding="utf-8")
    return path


def learn(lesson: Lesson, folder: Path) -> dict[str, Any]:
    """Runs one lesson; its figures."""
    source = folder / lesson.model if lesson.begins_with is None else folder / f"{lesson.model} {lesson.begins_with}"
    output = folder / " ".join((lesson.model, lesson.task, *(lesson.recipe if lesson.recipe != FULL else ())))
    data = write_rows(TASKS[lesson.task], folder, f"{lesson.task} to learn", ROWS)
    held_out = write_rows(TASKS[lesson.task], folder, f"{lesson.task} held out", HELD_OUT)
    course = (
        "--max-steps",
        lesson.steps,
        "--batch-size",
        8,
        "--learning-rate",
        lesson.rate,
        "--save-steps",
        lesson.steps,
    )
    words = ["train", data, "--model", "nano" if lesson.model == "nano" else source, "--output", output, *lesson.recipe]
    status = command([*map(str, [*words, *course, "--eval", held_out, "--cpu"])])
    if status:
        raise SystemExit(status)
    history = json.loads((output / "loss.json").read_text(encoding="utf-8"))
    answers = [json.loads(line) for line in (output / f"answers-{lesson.steps}.jsonl").read_text("utf-8").splitlines()]
    return {
        "model": lesson.model,
        "task": lesson.task,
        "recipe": " ".join(lesson.recipe),
        "begins_with": lesson.begins_with,
        "steps": lesson.steps,
        "first_loss": next(entry["loss"] for entry in history if "loss" in entry),
        "held_out_loss": next(entry["eval_loss"] for entry in reversed(history) if "eval_loss" in entry),
        "held_out": len(answers),
        "exact": sum(answer["exact"] for answer in answers) / len(answers),
    }


def main() -> int:
    """Runs every lesson; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="only lessons of this model; nothing is stored")
    options = parser.parse_args()
    lessons = [lesson for lesson in LESSONS if options.model in (None, lesson.model)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in {lesson.model for lesson in lessons} - {"nano"}:
            convert_family(name, folder)
        rows = [learn(lesson, folder) for lesson in lessons]
    report("training_tasks", {"rows": rows}, stored=options.model is None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
