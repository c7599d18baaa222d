"""Prompts as exact strings."""

import pytest
from jinja2.exceptions import TemplateError

from conversations import text
from deepseek_vl_hf.conversation.template_reading import names_in_template

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


def test_a_custom_template_reads_more_of_a_message(processor):
    template = "{{ messages[0].name }}: {{ messages[0].content }}{{ tools }}{{ motto }}"
    message = [{**user("Hi"), "name": "Ada"}]
    rendered = processor.apply_chat_template(message, template, tools=[{"type": "function"}], motto="!")
    assert rendered == "Ada: Hi[{'type': 'function'}]!"


@pytest.mark.parametrize("tokenize", [True, False])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tools": [{"type": "function"}]}, ValueError, "Found tools, which the chat template does not write"),
        ({"documents": [{"text": "a"}]}, ValueError, "Found documents, which the chat template does not write"),
        ({"load_audio_from_video": True}, ValueError, "Found load_audio_from_video"),
        ({"enable_thinking": False}, TypeError, "Found enable_thinking=..., which neither the tokenizer nor the image"),
        ({"processor_kwargs": {"pading": True}}, TypeError, "Found pading=..."),
        ({"processor_kwargs": {"text_kwargs": {"pading": True}}}, TypeError, r"Found text_kwargs\['pading'\]=..."),
    ],
)
def test_arguments_that_nothing_reads(processor, tokenize, arguments, error, message):
    with pytest.raises(error, match=message):
        processor.apply_chat_template([user("Hi")], tokenize=tokenize, **arguments)


@pytest.mark.parametrize("arguments", [{"tools": None, "documents": []}, {"bos_token": ""}, {"padding": True}])
def test_arguments_that_are_read_or_say_nothing(processor, arguments):
    rendered = processor.apply_chat_template([user("Hi")], **arguments)
    assert rendered == f"{arguments.get('bos_token', BOS)}{SYSTEM}\n\nUser: Hi"


def test_loose_arguments_come_beside_those_of_the_call(processor):
    """Older transformers drop one of the two."""
    ids = processor.apply_chat_template(
        [[user("Hi")], [user("Hi there")]],
        tokenize=True,
        padding=True,
        processor_kwargs={"pad_to_multiple_of": 64},
    )
    assert ids.shape[1] % 64 == 0


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\nb{{ raise_exception('No.') }}", r"line 2 of the template\): No\. Change the conversation"),
        ("a\n\n{% if %}", r"line 3 of the template\): Expected an expression"),
        ("{% nonsense %}", r"line 1 of the template\): Encountered unknown tag 'nonsense'"),
        ("{{ messages[0].content + 3 }}", r"line 1 of the template\): TypeError"),
        ("\n{{ messages[5].content.upper() }}", r"line 2 of the template\): .*has no element 5"),
        ("{{ 1 / 0 }}", "line 1 of the template.*ZeroDivisionError"),
        ("{{ messages | tojson(3, 4, 5, 6, 7) }}", "line 1 of the template.*TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}", "of the template.*RecursionError"),
        ("{% for i in range(999999999) %}{% endfor %}", "line 1 of the template.*OverflowError.*Range too big"),
        ("{{ 'x' * 10 ** 20 }}", "line 1 of the template.*(OverflowError|MemoryError)"),
        ("{{ ''.__class__.__mro__ }}", r"line 1 of the template\): .*unsafe"),
        ("{% include 'other' %}", "The chat template cannot write this conversation"),
        ("{{ messages[0].content | nofilter }}", r"line 1 of the template\): No filter named 'nofilter'"),
        ("{% set messages[0].content = 3 %}", "line 1 of the template"),
        ("{{ strftime_now(3) }}", "line 1 of the template.*TypeError"),
    ],
)
@pytest.mark.parametrize("tokenize", [True, False])
def test_errors_inside_a_template_name_its_line(processor, template, message, tokenize):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template([user("Hi")], template, tokenize=tokenize)


def test_errors_outside_of_the_template_stay_what_they_are(processor):
    with pytest.raises(ValueError, match="are not compatible"):
        processor.apply_chat_template([user("Hi")], add_generation_prompt=True, continue_final_message=True)


def test_errors_of_the_stored_template_name_its_line(processor, monkeypatch):
    monkeypatch.setattr(processor, "chat_template", "\n{{ raise_exception('No.') }}")
    with pytest.raises(ValueError, match="line 2 of the template"):
        processor.apply_chat_template([user("Hi")])
    with pytest.raises(ValueError, match="line 2 of the template"):
        processor.encode_conversation([user("Hi")], [])


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{{ message.name }}{{ message['tool_calls'] }}", {"message", "name", "tool_calls"}),
        (
            "{% if 'refusal' in m and m.get(\"id\") %}x{% endif %}",
            {"if", "refusal", "in", "m", "and", "get", "id", "endif"},
        ),
        ("name 'x' {# {{ y }} #}{% generation %}{{ 'a' }}{% endgeneration %}", {"generation", "endgeneration"}),
        ("{{ 'unfinished }}", set()),
    ],
)
def test_names_in_a_template(template, names):
    assert names_in_template(template) == names


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
