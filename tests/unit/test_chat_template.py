"""Prompts as exact strings."""

import pytest
from jinja2.exceptions import TemplateError

from conversations import text

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


def user(*content):
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


IMAGE = {"type": "image"}

PROMPTS = {
    "open": ([user("Hi")], f"{BOS}{SYSTEM}\n\nUser: Hi\n\nAssistant:"),
    "stripped": ([user("  Hi \n")], f"{BOS}{SYSTEM}\n\nUser: Hi\n\nAssistant:"),
    "several turns": (
        [user("Hi"), assistant(" Hello. "), user("And?")],
        f"{BOS}{SYSTEM}\n\nUser: Hi\n\nAssistant: Hello.{EOS}User: And?\n\nAssistant:",
    ),
    "image where it stands": (
        [user(text("Look: "), IMAGE, text("\nWhat"), text(" is"), text("this?"), IMAGE)],
        f"{BOS}{SYSTEM}\n\nUser: Look: <image_placeholder>\nWhat isthis?<image_placeholder>\n\nAssistant:",
    ),
    "own system message": ([system(" Be brief. "), user("Hi")], f"{BOS}Be brief.\n\nUser: Hi\n\nAssistant:"),
    "system message in parts": (
        [{"role": "system", "content": [text("Be "), text("brief.")]}, user("Hi")],
        f"{BOS}Be brief.\n\nUser: Hi\n\nAssistant:",
    ),
    "no system message": ([system(""), user("Hi")], f"{BOS}User: Hi\n\nAssistant:"),
    "turn without text": ([user(""), assistant("Yes?")], f"{BOS}{SYSTEM}\n\nUser:Assistant: Yes?{EOS}Assistant:"),
    "answer left open": ([user("Hi"), assistant("")], f"{BOS}{SYSTEM}\n\nUser: Hi\n\nAssistant:"),
    "system message alone": ([system("Be brief.")], f"{BOS}Be brief.\n\nAssistant:"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt(processor, name):
    messages, expected = PROMPTS[name]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected


@pytest.mark.parametrize("name", PROMPTS)
def test_the_tokenizer_renders_the_same(processor, name):
    messages, expected = PROMPTS[name]
    rendered = processor.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("Hi")], f"{BOS}{SYSTEM}\n\nUser: Hi"),
        ([user("Hi"), assistant("Hello.")], f"{BOS}{SYSTEM}\n\nUser: Hi\n\nAssistant: Hello.{EOS}"),
        ([user("Hi"), assistant("")], f"{BOS}{SYSTEM}\n\nUser: Hi\n\nAssistant:"),
    ],
)
def test_without_a_generation_prompt(processor, messages, expected):
    assert processor.apply_chat_template(messages) == expected


def test_batch(processor):
    prompts = processor.apply_chat_template([[user("A")], [user("B")]], add_generation_prompt=True)
    assert prompts == [f"{BOS}{SYSTEM}\n\nUser: {letter}\n\nAssistant:" for letter in "AB"]


@pytest.mark.parametrize("content", ["It shows a", [{"type": "text", "text": "It shows a"}]])
def test_continuing_the_final_message(processor, content):
    prompt = processor.apply_chat_template([user("Hi"), assistant(content)], continue_final_message=True)
    assert prompt == f"{BOS}{SYSTEM}\n\nUser: Hi\n\nAssistant: It shows a"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "(conversation is empty|empty conversation)"),  # newer transformers say it before the template does
        ([{"role": "tool", "content": "1"}], "Unknown role 'tool'"),
        ([user("Hi"), system("Be brief.")], "Unknown role 'system'; expected .* or 'system' first"),
        ([user("Hi"), assistant([IMAGE])], "message of the role 'assistant'; images belong in user messages"),
        ([user(text("Hi"), {"type": "video"})], "type 'video' is not supported"),
    ],
)
def test_the_template_alone_refuses(processor, messages, message):
    with pytest.raises((TemplateError, ValueError), match=message):
        processor.tokenizer.apply_chat_template(messages, tokenize=False)


def test_assistant_mask_covers_answers_and_their_eos(processor, images):
    messages = [
        user({"type": "image", "path": str(images / "tall.png")}, text("Hi <image_placeholder>")),
        assistant("Hello."),
        user("And <image_placeholder>?"),
        assistant(f"No {EOS} more."),
    ]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    mask = inputs["assistant_masks"][0].bool()
    answers = processor.decode(inputs["input_ids"][0][mask])
    assert answers == f" Hello.{EOS} No {EOS} more.{EOS}"
    # The EOS that was typed is text; only the template's two are control tokens.
    assert (inputs["input_ids"][0] == processor.tokenizer.eos_token_id).sum() == 2
    assert (inputs["input_ids"][0] == processor.image_token_id).sum() == 576
    assert not mask[inputs["input_ids"][0] == processor.image_token_id].any()
