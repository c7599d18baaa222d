"""Times `deepseek-vl describe` over a folder of pictures: batches of 8 against one picture after the other.

    python benchmarks/describe.py

Nano, greedy, on held-out drawings in PNG files, read and answered in turn in one process: by `ask_each` in batches and
one by one, and by `Chat.ask`, as the command does without --output.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent / "examples")]

import torch

from deepseek_vl_hf import Chat
from deepseek_vl_hf.chat.batch import ask_each
from deepseek_vl_hf.cli.pictures import open_picture
from environment import report
from nano.dataset import example
from nano.drawing import draw_scene
from timing import medians

BATCH, PICTURES, REPEATS = 8, 64, 7
PROMPT = "Describe the picture."
BATCHES, ONE_BY_ONE, CHAT = "batches", "one_by_one", "chat"


def draw_pictures(folder: Path, count: int) -> list[str]:
    """Held-out scenes as files."""
    names = []
    for number in range(count):
        path = folder / f"{number:04}.png"
        scene = example("held-out", number)
        draw_scene(scene.scene, scene.view).save(path)
        names.append(str(path))
    return names


def in_batches(chat: Chat, names: list[str], size: int) -> list[str]:
    """The answers, `size` pictures at a time."""
    answers = []
    for start in range(0, len(names), size):
        pictures = [open_picture(name) for name in names[start : start + size]]
        answers += [answer.text for answer in ask_each(chat, PROMPT, pictures)]
    return answers


def by_chat(chat: Chat, names: list[str]) -> list[str]:
    """The same, each in a conversation of its own."""
    answers = []
    for name in names:
        chat.new()
        answers.append(chat.ask(PROMPT, [open_picture(name)]))
    return answers


def ways(chat: Chat, names: list[str]) -> dict[str, Callable[[], list[str]]]:
    """What is compared; each gives the answers."""
    return {
        BATCHES: partial(in_batches, chat, names, BATCH),
        ONE_BY_ONE: partial(in_batches, chat, names, 1),
        CHAT: partial(by_chat, chat, names),
    }


def same_answers(runs: dict[str, Callable[[], list[str]]]) -> dict[str, int]:
    """How many answers each way gives as the batches do."""
    expected = runs[BATCHES]()
    return {name: sum(map(str.__eq__, expected, run())) for name, run in runs.items()}


def measure(count: int, repeats: int) -> dict[str, Any]:
    """Pictures per second of each way, and how many answers are the same, also in float32, which hardly rounds."""
    chat, exact = (Chat.from_pretrained("nano", do_sample=False, dtype=dtype) for dtype in (None, torch.float32))
    with tempfile.TemporaryDirectory() as folder:
        names = draw_pictures(Path(folder), count)
        seconds = medians(ways(chat, names), repeats)
        same = {str(each.model.dtype): same_answers(ways(each, names)) for each in (chat, exact)}
        different = len(set(in_batches(chat, names, BATCH)))
    return {
        "model": "nano",
        "dtype": str(chat.model.dtype),
        "pictures": count,
        "batch_size": BATCH,
        "repeats": repeats,
        "same_answers": same,
        "different_answers_among_them": different,
        "pictures_per_second": {name: round(count / value, 2) for name, value in seconds.items()},
        "ratio_to_one_by_one": round(seconds[ONE_BY_ONE] / seconds[BATCHES], 3),
        "ratio_to_chat": round(seconds[CHAT] / seconds[BATCHES], 3),
    }


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=PICTURES, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="(default: %(default)s)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    report("describe", measure(arguments.pictures, arguments.repeats), stored=not arguments.no_result)


if __name__ == "__main__":
    main()
