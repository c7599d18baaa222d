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


def test_neighbouring_texts_become_one():
    content = [text("a"), text("b"), {"type": "image", "url": "u"}, text("c"), text("d")]
    result = normalize({"role": "user", "content": content})
    assert result == [{"role": "user", "content": [text("ab"), {"type": "image", "url": "u"}, text("cd")]}]


def test_image_url_parts():
    for url in ({"url": "u", "detail": "high"}, "u"):
        result = normalize({"role": "user", "content": [{"type": "image_url", "image_url": url}]})
        assert result == [{"role": "user", "content": [{"type": "image", "url": "u"}]}]


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


def test_other_keys_of_a_message_are_kept():
    assert normalize({"role": "user", "content": "Hi", "name": "Ada"})[0]["name"] == "Ada"


@pytest.mark.parametrize(
    ("conversation", "batch"),
    [([{"role": "user"}], False), ([[{"role": "user"}]], True), ([], False), ([[]], True), ("text", False)],
)
def test_is_batch(conversation, batch):
    assert is_batch(conversation) is batch


@pytest.mark.parametrize(
    ("conversation", "error", "message"),
    [
        ([], ValueError, "Conversation 1 is empty; expected at least one message"),
        ("Hi", TypeError, "Conversation 1 is a str; expected a list of messages"),
        (["Hi"], TypeError, "Conversation 1, message 0 is a str; expected a dict"),
        ([{"role": "tool", "content": "1"}], ValueError, "message 0 has the role 'tool'; expected one of system, user"),
        ([{"content": "1"}], ValueError, "message 0 has the role None"),
        ([{"role": "user"}], TypeError, "content of type NoneType; expected a string or a list"),
        ([{"role": "user", "content": 3}], TypeError, "content of type int"),
        ([{"role": "user", "content": ["Hi"]}], TypeError, "part 0 is a str; expected a dict"),
        ([{"role": "user", "content": [{"type": "text"}]}], TypeError, "part 0 has a text of type NoneType"),
        ([{"role": "user", "content": [{"type": "video"}]}], ValueError, "part 0 has the type 'video'"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "a", "path": "b"}]}],
            ValueError,
            r"names its image 2 times \(url, path\)",
        ),
        (
            [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}],
            ValueError,
            "message 1 has the role 'system', which may stand only first",
        ),
        (
            [{"role": "assistant", "content": [{"type": "image"}]}],
            ValueError,
            "message 0 is of the role 'assistant' and holds an image",
        ),
        (
            [{"role": "Assistant", "content": PLACEHOLDER, "images": ["a.png"]}],
            ValueError,
            "message 0 is of the role 'Assistant' and holds an image",
        ),
        (
            [{"role": "User", "content": "Hi", "images": ["a.png"]}],
            ValueError,
            "message 0 has 0 <image_placeholder> in its content but 1 `images`",
        ),
        ([{"role": "User", "content": PLACEHOLDER}], ValueError, "1 <image_placeholder> in its content but 0 `images`"),
        ([{"role": "User", "content": None, "images": ["a"]}], TypeError, "`images` beside a content of type NoneType"),
    ],
)
def test_errors_name_the_place(conversation, error, message):
    good = [{"role": "user", "content": "Hi"}]
    with pytest.raises(error, match=message):
        normalize_conversations([good, conversation], PLACEHOLDER)
