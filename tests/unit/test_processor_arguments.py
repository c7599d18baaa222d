"""What a processor's call and `apply_chat_template` take beside text and messages, and what they refuse."""

import numpy as np
import pytest
import torch
from PIL import Image

from conversations import ask, chat, text

PLACEHOLDER = "<image_placeholder>"
TOKENS = 576


@pytest.fixture(scope="module")
def picture(images):
    return Image.open(images / "tall.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"conversations": [], "force_batchify": True},
            "Found conversations=..., force_batchify=..., which the original's .* deepseek_vl_hf.original",
        ),
        ({"prompt": "Hi", "system_prompt": ""}, "Found prompt=..., system_prompt=..., which the original's"),
        ({"max_tokens": 5, "pading": True}, "Found max_tokens=..., pading=..., which neither"),
        ({"tiling": True}, "Found tiling=..., which neither the tokenizer nor the image processor reads"),
        ({"fps": 2}, "Found fps=..."),
        ({"videos_kwargs": {"fps": 2}}, "Found videos_kwargs=..."),
        ({"images_kwargs": {"padding": True}}, r"Found images_kwargs\['padding'\]=..."),
        ({"common_kwargs": {"pading": True}}, r"Found common_kwargs\['pading'\]=..."),
    ],
)
def test_arguments_that_nothing_reads(processor, arguments, message):
    with pytest.raises(TypeError, match=message):
        processor(text="Hi", **arguments)


def test_arguments_of_every_kind_are_read(processor, picture):
    inputs = processor(
        text=[PLACEHOLDER, "a b"],
        images=[picture],
        text_kwargs={"padding": True, "padding_side": "right"},
        images_kwargs={"do_normalize": False},
        videos_kwargs={},
        common_kwargs={"return_tensors": "np"},
        return_mm_token_type_ids=True,
    )
    assert isinstance(inputs["input_ids"], np.ndarray)
    assert inputs["pixel_values"].min() >= 0
    assert inputs["attention_mask"][1, -1] == 0
    assert inputs["mm_token_type_ids"].sum() == TOKENS


def test_none_for_a_prompt_without_pictures(processor, picture):
    prompts = ["a", f"{PLACEHOLDER}b"]
    found = processor(text=prompts, images=[None, [picture]], padding=True)
    expected = processor(text=prompts, images=[[], [picture]], padding=True)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_images_beside_the_messages(processor, picture):
    """For image parts that hold none."""
    whole = [ask({"type": "image", "image": picture}, text("a")), ask(text("b"))]
    bare = [ask({"type": "image"}, text("a")), ask(text("b"))]
    expected = chat(processor, whole, processor_kwargs={"padding": True})
    for arguments in ({"images": [[picture], []]}, {"images": [picture, []]}):
        found = chat(processor, bare, processor_kwargs={"padding": True, **arguments})
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(chat(processor, bare[0], images=picture)["pixel_values"], expected["pixel_values"])
    with pytest.raises(ValueError, match="Conversation 1 has 1 image parts without an image, but 2 images were passed"):
        chat(processor, bare[0], images=[picture] * 2)
    with pytest.raises(ValueError, match="images holds 1 lists, but there are 2 conversations"):
        chat(processor, bare, images=[[picture]])


@pytest.mark.parametrize(("typed", "read"), [("a \ud83d b", "a \ufffd b"), ("\ud83d\ude00", "😀")])
def test_lone_surrogates_on_every_route(processor, typed, read):
    for route in (lambda text: processor(text=text), lambda words: chat(processor, ask(text(words)))):
        assert torch.equal(route(typed)["input_ids"], route(read)["input_ids"])


def test_control_strings_deep_inside_a_message_are_typed_text(processor):
    template = "{{ messages[0].content }}{{ messages[0].tool_calls[0].function.arguments['a'][0] }}"
    calls = [{"function": {"arguments": {"a": [processor.tokenizer.eos_token]}}}]
    message = [{"role": "assistant", "content": "", "tool_calls": calls}]
    ids = processor.apply_chat_template(message, template, tokenize=True)[0]
    assert processor.tokenizer.eos_token_id not in ids


def test_a_finished_turn_of_a_tool_call_without_text(processor):
    messages = [*ask(text("q")), {"role": "assistant", "content": None, "tool_calls": []}]
    expected = processor.apply_chat_template([messages[0], {"role": "assistant", "content": ""}])
    assert processor.apply_chat_template(messages) == expected


@pytest.mark.parametrize("argument", ["text_pair", "return_overflowing_tokens", "is_split_into_words"])
def test_unsupported_text_arguments(processor, argument):
    with pytest.raises(ValueError, match=f"{argument}=.* is not supported"):
        processor(text="a", text_kwargs={argument: "b" if argument == "text_pair" else True})
