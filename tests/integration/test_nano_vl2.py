"""The shipped DeepSeek-VL2: it finds things in drawn pictures, on every route."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

import demo
import evaluate
import evaluate_vl2
from deepseek_vl_hf import Chat, DeepseekVL2ForConditionalGeneration, DeepseekVL2Processor, example_picture, nano_path
from deepseek_vl_hf.chat.page_examples import OF_PACKAGED
from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.models.grounding import find_boxes
from deepseek_vl_hf.nano.folder import NANO_VL2
from forked import python
from make_pictures import PLACES
from nano.splits import is_held_out
from nano_vl2.dataset import example
from nano_vl2.pictures import draw
from overlaps import same_places

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "nano_vl2.json"
PICTURE = example_picture("places")


@pytest.fixture(scope="module")
def figures():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano-vl2") / "model"
    convert_checkpoint(nano_path("nano-vl2"), folder)
    return folder


@pytest.fixture(scope="module", params=["original", "converted"])
def folder(request, converted):
    return nano_path("nano-vl2") if request.param == "original" else converted


def found_in(processor, answer):
    (found,) = processor.post_process_grounding(answer, Image.open(PICTURE))
    return [box for boxes in found.boxes for box in boxes]


def test_it_finds_things_through_chat(folder):
    chat = Chat.from_pretrained(folder, dtype="float32")
    assert type(chat.model) is DeepseekVL2ForConditionalGeneration
    assert type(chat.processor) is DeepseekVL2Processor
    for name, expected in demo.FINDS.items():
        chat.new()
        answer = chat.ask(f"<|ref|>{name}<|/ref|>", [PICTURE])
        assert same_places(expected, found_in(chat.processor, answer)), answer


def test_it_finds_things_through_the_pipeline(folder):
    pipe = pipeline("image-text-to-text", model=str(folder), dtype="float32")
    messages = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "path": PICTURE}, {"type": "text", "text": f"\n<|ref|>{name}<|/ref|>"}],
            }
        ]
        for name in demo.FINDS
    ]
    results = pipe(text=messages, return_full_text=False, max_new_tokens=80, skip_special_tokens=False)
    for result, expected in zip(results, demo.FINDS.values(), strict=True):
        assert same_places(expected, found_in(pipe.processor, result[0]["generated_text"])), result


def test_what_the_page_offers_to_click_is_answered_right():
    chat = Chat.from_pretrained("nano-vl2")
    words = {
        "How many circles are there?": "2",
        "What is written at the bottom?": "1276",
        "Which bar is the shortest?": "M",
    }
    for picture, text in OF_PACKAGED[NANO_VL2]:
        chat.new()
        answer = chat.ask(text, images=[example_picture(picture)])
        found = find_boxes(answer, Image.open(PICTURE).size)
        if found.labels:
            assert same_places(demo.FINDS[found.labels[0]], found.boxes[0]), text
        else:
            assert answer == words[text]


def test_the_page_on_nano_runs():
    page = (ROOT / "docs" / "nano.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    result = python("-c", program, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    found = find_boxes(result.stdout, Image.open(PICTURE).size)
    assert found.labels == ["the green star"]
    assert same_places(demo.FINDS["the green star"], found.boxes[0])


def test_the_example_picture_was_never_shown_in_training():
    assert is_held_out(PLACES.key)
    with Image.open(PICTURE) as picture:
        assert picture.tobytes() == draw(PLACES.picture).tobytes()


def test_size_and_layout():
    files = {path.name: path.stat().st_size for path in nano_path("nano-vl2").iterdir()}
    assert sum(files.values()) <= 8_100_000
    assert files["model.safetensors"] <= 8_000_000
    assert json.loads((nano_path("nano-vl2") / "config.json").read_text())["model_type"] == "deepseek_vl_v2"


def test_the_published_figures_name_this_model(figures):
    assert figures["model"] == "nano-vl2"
    assert figures["converted_answers_equal"] is True
    assert figures["weights_sha256"] == evaluate.fingerprint(nano_path("nano-vl2"))


def test_the_published_figures_are_those_of_the_shipped_model(figures):
    """A sample of the held-out pictures is answered as well as the whole, within what chance allows."""
    kinds = figures["kinds_of_pictures"]
    examples = [example("held-out", number, kind=kinds[number % len(kinds)]) for number in range(60)]
    processor = AutoProcessor.from_pretrained(nano_path("nano-vl2"))
    model = AutoModelForImageTextToText.from_pretrained(nano_path("nano-vl2"), dtype=torch.float32).eval()
    asked = [(turn.kind, turn.answer) for one in examples for turn in one.turns]
    found = evaluate_vl2.accuracy(asked, evaluate_vl2.ask(model, processor, examples, ""))
    for kind, published in figures["accuracy"]["float32"].items():
        if kind in found:
            count = sum(kind == each for each, _ in asked)
            deviation = (max(published * (1 - published), 0.01) / count) ** 0.5
            assert abs(found[kind] - published) <= 4 * deviation, kind
