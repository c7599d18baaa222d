"""The shipped model: right answers about pictures that are drawn here, on every route."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

import evaluate
from conversations import ask, chat, text
from deepseek_vl_hf import (
    Chat,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridProcessor,
    example_picture,
    nano_path,
)
from deepseek_vl_hf.chat.sampling import options_of
from deepseek_vl_hf.checkpoints import convert_checkpoint
from forked import python
from nano.dataset import example
from nano.drawing import font

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "nano.json"


def picture(width=400, height=400):
    image = Image.new("RGB", (width, height), (245, 244, 240))
    return image, ImageDraw.Draw(image)


def two_shapes():
    image, draw = picture()
    draw.ellipse((40, 150, 120, 230), fill=(214, 39, 40))
    draw.rectangle((270, 150, 350, 230), fill=(30, 90, 210))
    return image


def sign(word, size=48):
    image, draw = picture(400, 300)
    draw.text((200, 150), word, font=font("DejaVuSans-Bold", size), fill=(25, 25, 25), anchor="mm")
    return image


QUESTIONS = [
    (two_shapes(), "What color is the circle?", "red"),
    (two_shapes(), "What shape is blue?", "square"),
    (two_shapes(), "How many shapes are there?", "2"),
    (two_shapes(), "Where is the red circle relative to the blue square?", "left"),
    (two_shapes(), "正方形是什么颜色？", "蓝色"),
    (two_shapes(), "Where is the square?", "right"),
    (sign("LAMP"), "What is written?", "LAMP"),
    (sign("408"), "What does it say?", "408"),
]


@pytest.fixture(scope="module")
def converted_nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano") / "model"
    convert_checkpoint(nano_path(), folder)
    return folder


@pytest.fixture(scope="module", params=["original", "converted"])
def folder(request, converted_nano):
    return nano_path() if request.param == "original" else converted_nano


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(nano_path())


@pytest.fixture(scope="module")
def exact():
    """In float32; tests must not change it."""
    return AutoModelForImageTextToText.from_pretrained(nano_path(), dtype=torch.float32).eval()


def answer(model, processor, image, question):
    inputs = chat(processor, ask({"type": "image", "image": image}, text(f"\n{question}")), return_tensors="pt")
    ids = model.generate(**inputs.to(model.dtype), max_new_tokens=20, do_sample=False)
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_right_answers(folder, dtype):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model) is DeepseekVLHybridForConditionalGeneration
    assert type(processor) is DeepseekVLHybridProcessor
    given = [answer(model, processor, image, question) for image, question, _ in QUESTIONS]
    assert given == [expected for _, _, expected in QUESTIONS]


def test_right_answers_from_the_pipeline(folder):
    pipe = pipeline("image-text-to-text", model=str(folder), dtype="bfloat16")
    messages = [ask({"type": "image", "image": image}, text(f"\n{question}")) for image, question, _ in QUESTIONS]
    results = pipe(text=messages, max_new_tokens=20, return_full_text=False, batch_size=4)
    given = [result[0]["generated_text"].strip() for result in results]
    assert given == [expected for _, _, expected in QUESTIONS]


def test_a_second_question_about_the_same_picture(exact, processor):
    messages = ask({"type": "image", "image": two_shapes()}, text("\nWhat color is the circle?"))
    messages += [{"role": "assistant", "content": "red"}, {"role": "user", "content": "What shape is blue?"}]
    inputs = chat(processor, messages, return_tensors="pt")
    ids = exact.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip() == "square"


def test_directly_loaded_and_converted_are_equal(exact, processor, converted_nano):
    model = AutoModelForImageTextToText.from_pretrained(converted_nano, dtype=torch.float32).eval()
    other = AutoProcessor.from_pretrained(converted_nano)
    conversation = ask({"type": "image", "image": two_shapes()}, text("\nWhat color is the circle?"))
    inputs, others = (chat(each, conversation, return_tensors="pt") for each in (processor, other))
    for name, values in inputs.items():
        assert torch.equal(values, others[name])
    with torch.no_grad():
        assert torch.equal(exact(**inputs).logits, model(**others).logits)


@pytest.fixture(scope="module")
def sample(exact, processor):
    """Some of the held-out examples, and the model's answers to their questions."""
    examples = [example("held-out", number) for number in range(80)]
    return examples, evaluate.answers(exact, processor, examples, "")


def test_small_text_is_read_through_sam(exact, processor, sample):
    seeing = evaluate.accuracy(*sample)
    asked = [one for one in sample[0] if any(turn.kind == "read_small" for turn in one.turns)]
    assert len(asked) >= 8
    with evaluate.without_sam(exact):
        blind = evaluate.accuracy(asked, evaluate.answers(exact, processor, asked, ""))
    assert seeing["read_small"] - blind["read_small"] >= 0.2


def test_the_package_holds_the_example_pictures():
    for name in ("shapes", "words", "chart"):
        assert Path(example_picture(name)).read_bytes() == (ROOT / "examples" / "pictures" / f"{name}.png").read_bytes()
    with pytest.raises(ValueError, match="no example picture 'cat'; expected chart, places, shapes, words"):
        example_picture("cat")


def test_nothing_in_its_answers_is_drawn_at_random(exact, processor):
    """Unless it is asked for: they are short and exact."""
    options = options_of(exact, processor, {})
    assert (options["do_sample"], options["repetition_penalty"]) == (False, 1.0)
    for asked in ({"do_sample": True}, {"temperature": 0.7}, {"top_p": 0.5}, {"top_k": 3}):
        assert options_of(exact, processor, asked).items() >= {"do_sample": True, **asked}.items()
        assert options_of(exact, processor, {"temperature": 0}, asked)["do_sample"] is True
        assert options_of(exact, processor, asked, {"do_sample": False}) == options
        assert options_of(exact, processor, asked, {"temperature": 0}) == options
    talk = Chat(exact, processor, temperature=50.0, top_p=1.0, max_new_tokens=8)
    torch.manual_seed(0)
    assert len({talk.ask("Read all the text.", [example_picture("words")]) for _ in range(2)}) == 2


def test_size_and_layout():
    files = {path.name: path.stat().st_size for path in nano_path().iterdir()}
    assert sum(files.values()) <= 8_100_000
    assert files["model.safetensors"] <= 8_000_000
    assert json.loads((nano_path() / "config.json").read_text())["model_type"] == "multi_modality"


def test_parameters(exact):
    assert exact.num_parameters() <= 4_000_000
    sam = exact.config.high_res_vision_config
    assert 0 < len(sam.global_attn_indexes) < sam.num_hidden_layers
    assert exact.model.high_res_vision_alpha.abs().item() > 1e-3  # the second path is in use


# The figures that are published


def test_the_published_figures_are_those_of_the_shipped_model(sample):
    """A sample of the held-out pictures is answered as well as the whole, within what chance allows."""
    figures = json.loads(RESULTS.read_text(encoding="utf-8"))
    found, counts = evaluate.accuracy(*sample), evaluate.count(sample[0])
    for kind, published in figures["accuracy"]["float32"].items():
        deviation = (max(published * (1 - published), 0.01) / counts[kind]) ** 0.5
        assert abs(found[kind] - published) <= 4 * deviation, kind


def test_the_published_figures_name_this_model():
    figures = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert figures["model"] == "nano"
    assert figures["converted_answers_equal"] is True
    assert figures["weights_sha256"] == evaluate.fingerprint(nano_path())


# Where a command takes a model


def test_the_command_converts_nano(tmp_path):
    result = python("-m", "deepseek_vl_hf.cli", "convert", "nano", tmp_path / "model", "--verify")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model" / "config.json").is_file()


def test_a_folder_of_that_name_is_written_with_its_path(tmp_path):
    (tmp_path / "nano").mkdir()
    result = python("-m", "deepseek_vl_hf.cli", "convert", "./nano", "out", cwd=tmp_path)
    assert result.returncode == 1
    assert "config.json" in result.stderr
