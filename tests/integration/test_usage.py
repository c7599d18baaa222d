"""The package as people use it today."""

import base64
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from conversations import ask, text
from family import VL_FAMILIES
from forked import python

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo.py"


# Each test that asks for these runs for each family that has the same cases.


@pytest.fixture(scope="module", params=VL_FAMILIES)
def family(request, families):
    return families[request.param]


@pytest.fixture(scope="module")
def pipe(family):
    return pipeline(task="image-text-to-text", model=str(family.converted), dtype=torch.float32)


@pytest.fixture(scope="module")
def processor(family):
    return family.processor


@pytest.fixture(scope="module")
def expected(family):
    return family.expected


def image(path):
    return {"type": "image", "url": str(path)}


def decode(processor, expected, case):
    return processor.decode(expected[f"case{case}.generated_ids"], skip_special_tokens=True)


def test_pipeline_gives_the_originals_tokens(pipe, images, processor, expected):
    messages = ask(image(images / "wide.png"), text("Describe each stage of this image."))
    result = pipe(text=messages, max_new_tokens=12, return_full_text=False)
    assert result[0]["generated_text"] == decode(processor, expected, 0)


def test_pipeline_on_the_originals_message_shape(pipe, conversations, processor, expected):
    result = pipe(text=conversations[1], max_new_tokens=12, return_full_text=False)
    assert result[0]["generated_text"] == decode(processor, expected, 1)


def test_pipeline_with_full_text(pipe, images, processor, expected):
    messages = ask(image(images / "wide.png"), text("Describe each stage of this image."))
    conversation = pipe(text=messages, max_new_tokens=12)[0]["generated_text"]
    assert conversation[:-1] == messages
    assert conversation[-1] == {"role": "assistant", "content": decode(processor, expected, 0)}


def test_pipeline_continues_a_final_answer(pipe, images):
    messages = [*ask(image(images / "wide.png"), text("Hi")), {"role": "assistant", "content": [text("It shows")]}]
    result = pipe(text=messages, max_new_tokens=3)[0]["generated_text"]
    assert len(result) == 2
    assert result[-1]["content"][0]["text"].startswith("It shows")
    assert len(result[-1]["content"][0]["text"]) > len("It shows")


def test_pipeline_on_a_prompt_and_an_image(pipe, cases, images, processor, expected):
    prompt = cases["prompts"][0]
    for bos in ("", processor.tokenizer.bos_token):
        result = pipe(images=Image.open(images / "wide.png"), text=bos + prompt, max_new_tokens=12)
        assert result[0]["generated_text"] == bos + prompt + decode(processor, expected, 0)


def test_pipeline_on_several_chats(pipe, conversations, processor, expected):
    results = pipe(text=conversations[:3], max_new_tokens=12, return_full_text=False)
    assert [result[0]["generated_text"] for result in results] == [
        decode(processor, expected, case) for case in range(3)
    ]


def test_pipeline_without_images(pipe):
    result = pipe(text=ask(text("Hello! Who are you?")), max_new_tokens=3, return_full_text=False)
    assert isinstance(result[0]["generated_text"], str)


def test_auto_classes_and_generate(family, images, expected):
    processor = AutoProcessor.from_pretrained(family.converted)
    model = AutoModelForImageTextToText.from_pretrained(family.converted, dtype=torch.float32, device_map="auto")
    messages = ask(image(images / "wide.png"), text("Describe each stage of this image."))
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, dtype=model.dtype)
    generated = model.generate(**inputs, max_new_tokens=12)
    trimmed = [row[len(ids) :] for ids, row in zip(inputs.input_ids, generated, strict=True)]
    answers = processor.batch_decode(trimmed, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert answers == [decode(processor, expected, 0)]


def test_batch_with_two_and_one_images(family, processor, images):
    model = family.model
    conversations = [
        ask(image(images / "tall.png"), text("is a dog, "), image(images / "square.png"), text(" is a cat.")),
        ask(image(images / "wide.png"), text("Describe each stage of this image.")),
    ]
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        padding=True,
        truncation=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device, dtype=model.dtype)
    assert inputs["pixel_values"].shape[0] == 3
    together = model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    for row, conversation in enumerate(conversations):
        alone = processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        generated = model.generate(**alone, max_new_tokens=6)[0, alone["input_ids"].shape[1] :]
        assert together[row].tolist() == generated.tolist()


def test_data_uris(pipe, images, processor, expected):
    encoded = base64.b64encode((images / "wide.png").read_bytes()).decode()
    message = {
        "role": "User",
        "content": "<image_placeholder>Describe each stage of this image.",
        "images": [f"data:image/png;base64,{encoded}"],
    }
    result = pipe(text=[message], max_new_tokens=12, return_full_text=False)
    assert result[0]["generated_text"] == decode(processor, expected, 0)


def test_the_demo(tmp_path):
    result = python(DEMO, "--boxes", tmp_path / "new" / "places.png")
    assert result.returncode == 0, result.stderr
    assert "Found deepseek_vl_hybrid: " in result.stdout
    assert "relative to the blue square?  'left'  (expected 'left'" in result.stdout
    assert "Done: 7 and 7 of 7 answers are right to the letter." in result.stdout
    assert result.stdout.rstrip().endswith("3 of 3 things are where they should be.")
    assert (tmp_path / "new" / "places.png").stat().st_size > 2000


def test_the_demo_asks_other_models(converted):
    result = python(DEMO, converted, "--max-new-tokens", "2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("(expected ") == 7
    assert "Done: " in result.stdout


def test_the_demo_refuses_what_is_no_model(tmp_path):
    result = python(DEMO, tmp_path / "absent")
    assert result.returncode == 1
    assert "is no folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_example_pictures_are_small():
    pictures = list((ROOT / "examples" / "pictures").iterdir())
    assert len(pictures) >= 3
    assert all(picture.stat().st_size < 300_000 for picture in pictures)
