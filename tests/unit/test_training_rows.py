"""Rows of training data as people's tools write them, in memory and in files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from conversations import text
from deepseek_vl_hf import ConversationCollator, load_conversations
from deepseek_vl_hf.training.rows import conversation_of

PICTURE = Image.new("RGB", (40, 30), "red")
OTHER = Image.new("RGB", (40, 30), "blue")
PLACEHOLDER = "<image_placeholder>"
ANSWER = {"role": "assistant", "content": "Red."}


def user(content, **keys):
    return {"role": "user", "content": content, **keys}


def picture(value=PICTURE):
    return {"type": "image", "image": value}


def read(row, image_token=PLACEHOLDER):
    return conversation_of(row, image_token)


def asked(row):
    """The content of the first question in a row."""
    return next(message for message in read(row) if message["role"] == "user")["content"]


# Rows

ROWS = {
    "ms-swift and LLaMA-Factory": {"messages": [user("<image>What?"), ANSWER], "images": [PICTURE]},
    "the package's placeholder": {"messages": [user(f"{PLACEHOLDER}What?"), ANSWER], "images": [PICTURE]},
    "TRL, text": {"messages": [user("What?"), ANSWER], "images": [PICTURE]},
    "TRL, text in a part": {"messages": [user([text("What?")]), ANSWER], "images": [PICTURE]},
    "TRL, image part": {"messages": [user([{"type": "image"}, text("What?")]), ANSWER], "images": [PICTURE]},
    "TRL, table": {
        "messages": [user([{"type": "image", "text": None, "image": None}, text("What?")]), ANSWER],
        "images": [PICTURE],
        "videos": None,
        "tools": [],
    },
    "placeholder in a part": {"messages": [user([text("<image>What?")]), ANSWER], "images": [PICTURE]},
    "one picture without a list": {"messages": [user("<image>What?"), ANSWER], "images": PICTURE},
    "LLaVA": {
        "id": "7",
        "image": PICTURE,
        "conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Red."}],
    },
    "conversations with roles": {"conversations": [user("<image>What?"), ANSWER], "images": [PICTURE]},
    "original, own images": [user("<image>What?", images=[PICTURE]), ANSWER],
    "original, images beside": {
        "messages": [
            {"role": "User", "content": f"{PLACEHOLDER}What?"},
            {"role": "Assistant", "content": "Red."},
        ],
        "images": [PICTURE],
    },
    "in the message": [user([picture(), text("What?")]), ANSWER],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_every_shape_hold_their_picture(name):
    (question, answer) = read(ROWS[name])
    assert question["content"] == [picture(), text("What?")]
    assert answer == ANSWER


@pytest.mark.parametrize("name", ROWS)
def test_every_shape_gives_the_same_batch(family, name):
    """Against the picture in the message itself, which is tested against the original."""
    collate = ConversationCollator(family.processor)
    expected, found = collate([ROWS["in the message"]]), collate([ROWS[name]])
    assert "pixel_values" in found
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_pictures_take_their_places_in_order():
    row = {
        "messages": [user("a<image>b"), ANSWER, user([{"type": "image"}, text("<image>c")]), ANSWER],
        "images": [PICTURE, OTHER, "third.png"],
    }
    conversation = read(row)
    assert conversation[0]["content"] == [text("a"), picture(), text("b")]
    assert conversation[2]["content"] == [picture(OTHER), picture("third.png"), text("c")]


def test_several_pictures_without_a_place_stand_in_front_of_the_first_question():
    row = {"messages": [user("One?"), ANSWER, user("Two?"), ANSWER], "images": [PICTURE, OTHER], "system": "Be brief."}
    conversation = read(row)
    assert conversation[0] == {"role": "system", "content": "Be brief."}
    assert conversation[1]["content"] == [picture(), picture(OTHER), text("One?")]
    assert conversation[3]["content"] == "Two?"


def test_text_in_parts_is_text_where_no_picture_comes_beside():
    assert asked([user([text("What does <image> mean in SVG?")]), ANSWER]) == [text("What does <image> mean in SVG?")]


def test_a_placeholder_in_an_answer_is_text():
    answer = {"role": "assistant", "content": "It is written <image>."}
    assert read([user("?"), answer])[1] == answer


@pytest.mark.parametrize("value", [b"bytes", {"bytes": b"bytes", "path": None}, np.zeros((3, 3, 3)), "a.png"])
def test_pictures_in_any_form_pass_through(value):
    assert asked({"messages": [user("<image>"), ANSWER], "images": [value]})[0]["image"] is value


def test_rows_stay_as_they_are():
    row = {"messages": [user([{"type": "image"}, text("What?")]), ANSWER], "images": [PICTURE]}
    read(row)
    assert row["messages"][0]["content"] == [{"type": "image"}, text("What?")]
    assert row["images"] == [PICTURE]


TALK = [user("Hi"), ANSWER]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [user("<image>"), ANSWER]}, "Found 1 places .* and 0 pictures"),
        ({"messages": [user("<image><image>"), ANSWER], "images": [PICTURE]}, "Found 2 places .* and 1 pictures"),
        ({"messages": [user("<image>"), ANSWER], "images": [PICTURE] * 2}, "Found 1 places .* and 2 pictures"),
        ({"messages": [user([picture()]), ANSWER], "images": [PICTURE]}, "Found 0 places .* and 1 pictures"),
        ([user([{"type": "image"}]), ANSWER], "Found 1 places .* and 0 pictures"),
        ([user("<image_placeholder>What?"), ANSWER], "Found 1 places .* and 0 pictures"),
        ({"messages": [ANSWER], "images": [PICTURE]}, "1 pictures and no user's message"),
        *(
            ({"messages": TALK, name: ["x"]}, f"Found the columns '{name}', which nothing here reads")
            for name in ("videos", "audios", "tools", "rejected_response", "rejected", "label", "prompt")
        ),
        ({"messages": TALK, "conversations": TALK}, "Found messages and conversations"),
        ({"text": "Hi"}, "Found no messages but 'text'; expected one list of messages"),
        ({}, "Found no messages; expected"),
        ({"messages": TALK, "images": [PICTURE], "image": PICTURE}, "Found `images` and `image`"),
        ({"messages": [{"role": "system", "content": "a"}, *TALK], "system": "b"}, "beside a system message"),
        ([{"from": "observation", "value": "3"}, ANSWER], "Message 1 is from 'observation'; expected one of human"),
        ([{"from": "human", "value": "a", "role": "user"}], "Message 1 has `from` and `value` beside role"),
        ([{"from": "human", "value": "a", "weight": 0.5}, ANSWER], "message 1 holds 'weight'"),
        ([user("Hi")], "There is no assistant answer"),
        ([user("Hi"), {"role": "assistant", "content": None}], "There is no assistant answer"),
        ([user("Hi"), {"role": "assistant", "content": " "}], "There is no assistant answer"),
    ],
)
def test_rows_that_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        read(row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "Hi"}, "Found messages of type str; expected a list"),
        ({"messages": TALK, "system": ["Be brief."]}, "Found a `system` of type list"),
        ("Hi", "Found messages of type str"),
        (["Hi"], "message 1 is a str"),
    ],
)
def test_rows_of_a_wrong_type(row, message):
    with pytest.raises(TypeError, match=message):
        read(row)


def test_the_collator_names_the_row(processor):
    with pytest.raises(ValueError, match=r"Row 2 of the batch: Found 1 places"):
        ConversationCollator(processor)([TALK, [user("<image>"), ANSWER]])


# Files


def write_lines(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def row_about(name):
    return {"messages": [user([{"type": "image", "path": name}, text("?")]), ANSWER]}


@pytest.fixture
def folder(tmp_path):
    PICTURE.save(tmp_path / "red.png")
    return tmp_path


def test_pictures_lie_beside_the_file(processor, folder):
    path = write_lines(folder / "rows.jsonl", row_about("red.png"), "", row_about("red.png"))
    rows = load_conversations(path)
    assert [row["place"] for row in rows] == [f"{path}, line {number}" for number in (1, 3)]
    assert len(ConversationCollator(processor)(rows)["pixel_values"]) == 2


def test_the_originals_messages_in_a_file(folder):
    messages = [{"role": "User", "content": "<|img|>What?", "images": ["red.png"]}, {**ANSWER, "role": "Assistant"}]
    (loaded,) = load_conversations(write_lines(folder / "rows.jsonl", {"messages": messages}), "<|img|>")
    assert loaded["messages"][0]["content"] == [picture(str(folder / "red.png")), text("What?")]


@pytest.mark.parametrize("value", ["red.png", " red.png", {"path": "red.png"}, {"bytes": None, "path": "red.png"}])
def test_paths_in_columns_become_absolute(folder, value):
    row = {"messages": [user("<image>?"), ANSWER], "images": [value]}
    (loaded,) = load_conversations(write_lines(folder / "rows.jsonl", row))
    assert loaded["messages"][0]["content"] == [picture(str(folder / "red.png")), text("?")]


@pytest.mark.parametrize(
    "value", ["https://example.com/a.png", "data:image/png;base64,xyz", "FILE:///a.png", "x" * 300]
)
def test_what_is_no_path_is_left_alone(folder, value):
    (loaded,) = load_conversations(write_lines(folder / "rows.jsonl", {"messages": TALK, "images": [value]}))
    assert loaded["messages"][0]["content"][0] == picture(value)


def test_a_loaded_row_is_read_the_same_by_the_collator(processor, folder):
    row = {"messages": [user([text("<image> is text")]), ANSWER], "system": "Be brief.", "id": 3}
    (loaded,) = load_conversations(write_lines(folder / "rows.jsonl", row))
    direct = {key: value for key, value in row.items() if key != "id"}
    collate = ConversationCollator(processor)
    assert torch.equal(collate([loaded])["input_ids"], collate([direct])["input_ids"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("indent", [None, 1])
def test_arrays_and_byte_order_marks(folder, encoding, indent):
    path = folder / "rows.json"
    path.write_text(json.dumps([row_about("red.png"), {"messages": TALK}], indent=indent), encoding=encoding)
    assert [row["place"] for row in load_conversations(path)] == [f"{path}, row 1", f"{path}, row 2"]
    path.write_text("\n" + json.dumps({"messages": TALK}), encoding=encoding)
    assert [row["place"] for row in load_conversations(path)] == [f"{path}, line 2"]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("gbk", r"not in UTF-8 but in another encoding, such as GBK or Latin-1: line 2 holds the byte 0xd6"),
        ("utf-16", "not in UTF-8 but in UTF-16"),
        ("utf-16-be", "not in UTF-8 but in UTF-16 or UTF-32"),
        ("utf-32", "not in UTF-8 but in UTF-32"),
    ],
)
def test_other_encodings_are_named(folder, encoding, message):
    path = folder / "rows.jsonl"
    row = json.dumps({"messages": [user("中"), ANSWER]}, ensure_ascii=False)
    path.write_text("\n" + row + "\n", encoding=encoding)
    with pytest.raises(ValueError, match=message):
        load_conversations(path)


def test_a_line_ends_only_at_a_line_break(tmp_path):
    row = {"messages": [user([text("one\u2028two")]), {"role": "assistant", "content": [text("three\x85four")]}]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    (loaded,) = load_conversations(path)
    assert loaded["messages"][0]["content"] == [text("one\u2028two")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is a list, not an object with a list of messages"),
        ("3", "line 2 is a int, not an object with a list of messages"),
        ('{"messages": []}', "line 2: Found no messages; expected"),
        ('{"messages": [], "messages": []}', "line 2 names 'messages' twice"),
        ("[" * 100_000, "line 2 cannot be read as JSON"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "line 2: There is no assistant answer"),
        (json.dumps(row_about("absent.png")), "line 2: Picture 1 is absent.png, and there is no file"),
        (json.dumps({"messages": TALK, "videos": ["a.mp4"]}), "line 2: Found the columns 'videos'"),
    ],
)
def test_lines_that_are_refused(folder, line, message):
    with pytest.raises(ValueError, match=rf"rows\.jsonl, {message}"):
        load_conversations(write_lines(folder / "rows.jsonl", row_about("red.png"), line))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"messages": [{"role": "user", "content": "Hi"}]}]', "row 1: There is no assistant answer"),
        ("[1]", "row 1 is a int, not an object"),
        ("[{]", "is not JSON: .*line 1 column"),
    ],
)
def test_arrays_that_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_conversations(write_lines(tmp_path / "rows.json", content))


@pytest.mark.parametrize("content", ["", "\n  \n", "[]"])
def test_a_file_without_conversations(tmp_path, content):
    with pytest.raises(ValueError, match="holds no conversation"):
        load_conversations(write_lines(tmp_path / "rows.jsonl", content))


def test_a_broken_picture_is_named_with_its_line(processor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    rows = load_conversations(write_lines(tmp_path / "rows.jsonl", row_about("broken.png")))
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: Picture 1: No image could be read.*broken\.png"):
        ConversationCollator(processor)(rows)
