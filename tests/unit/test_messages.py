import copy

import pytest

from conversations import text
from deepseek_vl_hf.conversation.messages import is_batch, normalize_conversations

PLACEHOLDER = "<image_placeholder>"


def normalize(*messages):
    return normalize_conversations([list(messages)], PLACEHOLDER)[0]


def test_plain_messages_pass():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert normalize(*messages) == messages


def test_neighboring_texts_become_one():
    content = [text("a"), text("b"), {"type": "image", "url": "u"}, text("c"), text("d")]
    result = normalize({"role": "user", "content": content})
    assert result == [{"role": "user", "content": [text("ab"), {"type": "image", "url": "u"}, text("cd")]}]


def test_image_url_parts():
    for url in ({"url": "u", "detail": "high"}, "u"):
        result = normalize({"role": "user", "content": [{"type": "image_url", "image_url": url}]})
        assert result == [{"role": "user", "content": [{"type": "image", "url": "u"}]}]


BASE64 = {"type": "base64", "media_type": "image/jpeg", "data": "xyz"}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"image_url": "u"}, {"url": "u"}),
        ({"image_url": {"url": "u", "detail": "low"}}, {"url": "u"}),
        ({"source": BASE64}, {"url": "data:image/jpeg;base64,xyz"}),
        ({"source": {"type": "base64", "data": "xyz"}}, {"url": "data:image/png;base64,xyz"}),
        ({"source": {"type": "url", "url": "u"}}, {"url": "u"}),
        ({"source": "a.png"}, {"image": "a.png"}),
        ({"path": "a.png", "image": None, "text": None}, {"path": "a.png"}),
    ],
)
def test_ways_to_name_an_image(part, expected):
    result = normalize({"role": "user", "content": [{"type": "image", **part}]})
    assert result == [{"role": "user", "content": [{"type": "image", **expected}]}]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"type": "image", "file": "a.png"},
            "part 1 holds 'file', which nothing reads; expected 'type', 'image', 'url'",
        ),
        ({"type": "image", "url": "u", "max_pixels": 9}, "part 1 holds 'max_pixels'"),
        ({"type": "text", "text": "a", "image": "a.png"}, "part 1 holds 'image', which nothing reads; expected 'type'"),
        ({"type": "image", "url": "u", "source": BASE64}, r"names its image 2 times \(url, source\)"),
        ({"type": "image_url"}, "is an image_url without a url"),
        ({"type": "image_url", "image_url": {"detail": "low"}}, "is an image_url without a url"),
        ({"type": "image_url", "image_url": {"url": "u", "size": 9}}, "part 1, image_url holds 'size'"),
        ({"type": "image", "source": {"type": "file", "file_id": "x"}}, "source has the type 'file' and the keys"),
        ({"type": "image", "source": {"type": "base64", "data": None}}, "source has the type 'base64'"),
        ({"type": "image", "source": {**BASE64, "cache": 1}}, "part 1, source holds 'cache'"),
    ],
)
def test_parts_with_keys_that_nothing_reads(part, message):
    with pytest.raises(ValueError, match=message):
        normalize({"role": "user", "content": [part]})


def test_original_message_shape():
    result = normalize(
        {"role": "User", "content": f"{PLACEHOLDER}and {PLACEHOLDER}?", "images": ["a.png", "b.png"]},
        {"role": "Assistant", "content": ""},
    )
    content = [
        {"type": "image", "image": "a.png"},
        text("and "),
        {"type": "image", "image": "b.png"},
        text("?"),
    ]
    assert result == [{"role": "user", "content": content}, {"role": "assistant", "content": ""}]


def test_one_image_needs_no_list():
    result = normalize({"role": "User", "content": PLACEHOLDER, "images": "data:image/png;base64,xyz"})
    assert result[0]["content"] == [{"type": "image", "image": "data:image/png;base64,xyz"}]


def test_given_messages_stay_as_they_are():
    messages = [{"role": "User", "content": f"{PLACEHOLDER}?", "images": ["a.png"]}]
    before = copy.deepcopy(messages)
    normalize(*messages)
    assert messages == before


def test_keys_that_the_template_reads_are_kept():
    message = {"role": "user", "content": "Hi", "name": "Ada"}
    assert normalize_conversations([[message]], PLACEHOLDER, {"name"}) == [[message]]


@pytest.mark.parametrize("key", ["name", "tool_calls", "videos", "image", "reasoning_content"])
def test_keys_that_nothing_reads_are_refused(key):
    with pytest.raises(ValueError, match=rf"message 1 holds '{key}', which the chat template does not write"):
        normalize({"role": "user", "content": "Hi", key: ["x"]})


@pytest.mark.parametrize("empty", [None, [], {}, "", False])
def test_keys_without_a_value_say_nothing(empty):
    assert normalize({"role": "assistant", "content": "Hi", "tool_calls": empty})[0]["content"] == "Hi"


@pytest.mark.parametrize("message", [{"content": None}, {"content": None, "tool_calls": []}, {}])
def test_an_assistants_turn_without_content_is_empty(message):
    assert normalize({"role": "assistant", **message})[0]["content"] == ""


def test_an_empty_list_of_images_beside_parts():
    image = {"type": "image", "image": "a.png"}
    assert normalize({"role": "user", "content": [image], "images": []}) == [{"role": "user", "content": [image]}]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a \ud83d b", "a \ufffd b"),
        ("\ude00", "\ufffd"),
        ("\ud83d\ude00!", "😀!"),
        ("😀 \udfff", "😀 \ufffd"),
        ("e", "e"),
    ],
)
def test_lone_surrogates_are_replaced(typed, expected):
    assert normalize({"role": "user", "content": typed})[0]["content"] == expected
    assert normalize({"role": "user", "content": [text(typed)]})[0]["content"] == [text(expected)]


def test_a_surrogate_pair_over_two_parts_is_one_character():
    assert normalize({"role": "user", "content": [text("\ud83d"), text("\ude00")]})[0]["content"] == [text("😀")]


@pytest.mark.parametrize(
    ("conversation", "batch"),
    [([{"role": "user"}], False), ([[{"role": "user"}]], True), ([], False), ([[]], True), ("text", False)],
)
def test_is_batch(conversation, batch):
    assert is_batch(conversation) is batch


@pytest.mark.parametrize(
    ("conversation", "error", "message"),
    [
        ([], ValueError, "Conversation 2 is empty; expected at least one message"),
        ("Hi", TypeError, "Conversation 2 is a str; expected a list of messages"),
        (["Hi"], TypeError, "Conversation 2, message 1 is a str; expected a dict"),
        ([{"role": "tool", "content": "1"}], ValueError, "message 1 has the role 'tool'; expected one of system, user"),
        ([{"content": "1"}], ValueError, "message 1 has the role None"),
        ([{"role": "user"}], TypeError, "content of type NoneType; expected a string or a list"),
        ([{"role": "user", "content": 3}], TypeError, "content of type int"),
        ([{"role": "user", "content": ["Hi"]}], TypeError, "part 1 is a str; expected a dict"),
        ([{"role": "user", "content": [{"type": "text"}]}], TypeError, "part 1 has a text of type NoneType"),
        ([{"role": "user", "content": [{"type": "video"}]}], ValueError, "part 1 has the type 'video'"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "a", "path": "b"}]}],
            ValueError,
            r"names its image 2 times \(url, path\)",
        ),
        (
            [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}],
            ValueError,
            "message 2 has the role 'system', which may stand only first",
        ),
        (
            [{"role": "assistant", "content": [{"type": "image"}]}],
            ValueError,
            "message 1 is of the role 'assistant' and holds an image",
        ),
        (
            [{"role": "Assistant", "content": PLACEHOLDER, "images": ["a.png"]}],
            ValueError,
            "message 1 is of the role 'Assistant' and holds an image",
        ),
        (
            [{"role": "User", "content": "Hi", "images": ["a.png"]}],
            ValueError,
            "message 1 has 0 <image_placeholder> in its content but 1 `images`",
        ),
        ([{"role": "User", "content": PLACEHOLDER}], ValueError, "1 <image_placeholder> in its content but 0 `images`"),
        ([{"role": "User", "content": None, "images": ["a"]}], TypeError, "`images` beside a content of type NoneType"),
    ],
)
def test_errors_name_the_place(conversation, error, message):
    good = [{"role": "user", "content": "Hi"}]
    with pytest.raises(error, match=message):
        normalize_conversations([good, conversation], PLACEHOLDER)
