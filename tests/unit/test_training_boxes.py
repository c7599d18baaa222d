"""Boxes in pixels become what DeepSeek-VL2 writes, and what it writes is read back as the same boxes."""

import json

import pytest
from PIL import Image

from deepseek_vl_hf import ConversationCollator, load_conversations

WIDE = Image.new("RGB", (400, 200), "white")


def row(answer="<ref-object><bbox>", question="<image>Find <ref-object>.", images=(WIDE,), **objects):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": list(images), "objects": objects}


def rendered(vl2, one):
    """What the model reads and learns, as text."""
    batch = ConversationCollator(vl2.processor)([one])
    return vl2.processor.tokenizer.decode(batch["input_ids"][0])


def learned(vl2, one):
    batch = ConversationCollator(vl2.processor)([one])
    labels = batch["labels"][0, 1:]
    return vl2.processor.tokenizer.decode(labels[labels != -100]).removesuffix(vl2.processor.tokenizer.eos_token)


def test_names_and_boxes_take_their_places(vl2):
    one = row(ref=["a dog", "a dog"], bbox=[[40, 50, 200, 200]])
    assert "Find <|ref|>a dog<|/ref|>." in rendered(vl2, one)
    answer = learned(vl2, one)
    assert answer == "<|ref|>a dog<|/ref|><|det|>[[100, 250, 500, 999]]<|/det|>"
    # The way back truncates, as the original does: a pixel less at most.
    assert vl2.processor.post_process_grounding([answer], [WIDE])[0].boxes == [[(40, 50, 200, 200)]]


def test_control_tokens_are_single_ids(vl2):
    ids = ConversationCollator(vl2.processor)([row(ref=["a", "a"], bbox=[[0, 0, 1, 1]])])["input_ids"][0].tolist()
    named = vl2.processor.tokenizer.convert_tokens_to_ids(["<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"])
    assert [ids.count(number) for number in named] == [2, 2, 1, 1]


def test_several_boxes_and_several_pictures(vl2):
    tall = Image.new("RGB", (100, 300))
    one = row(
        answer="<bbox> and <bbox>",
        question="<image><image>Which?",
        images=[WIDE, tall],
        bbox=[[[0, 0, 400, 200], [200, 100, 400, 200]], [50, 150, 100, 300]],
        image_id=[0, 1],
    )
    assert learned(vl2, one) == (
        "<|det|>[[0, 0, 999, 999], [500, 500, 999, 999]]<|/det|> and <|det|>[[500, 500, 999, 999]]<|/det|>"
    )


def test_shares_and_boxes_in_questions(vl2):
    one = row("A dog.", "<image>What is at <bbox>?", bbox=[[0.0, 0.25, 0.5, 1.0]], bbox_type="norm1")
    assert "What is at <|det|>[[0, 250, 500, 999]]<|/det|>?" in rendered(vl2, one)


def test_parts_and_files(vl2, tmp_path):
    WIDE.save(tmp_path / "wide.png")
    parts = [{"type": "image"}, {"type": "text", "text": "Find <ref-object>."}]
    one = {**row(ref=["it"], bbox=[[0, 0, 4, 2]], answer="<bbox>", question=parts), "images": ["wide.png"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(one), encoding="utf-8")
    (loaded,) = load_conversations(tmp_path / "rows.jsonl")
    assert learned(vl2, loaded) == "<|det|>[[0, 0, 10, 10]]<|/det|>"
    assert "Find <|ref|>it<|/ref|>." in rendered(vl2, loaded)


def test_without_objects_the_places_are_text(vl2):
    assert "<bbox>" in rendered(vl2, row("a <bbox>", "<image>Hm?"))


def test_families_without_boxes_refuse_them(vl):
    with pytest.raises(ValueError, match=r"Row 1 of the batch: Found `objects`, but DeepSeek-VL has no way to write"):
        ConversationCollator(vl.processor)([row(ref=["a", "a"], bbox=[[0, 0, 1, 1]])])


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"ref": ["a"], "bbox": [[0, 0, 1, 1]]}, r"Found 2 times <ref-object> and 1 in `objects`"),
        ({"ref": ["a", "a"], "bbox": []}, r"Found 1 times <bbox> and 0 in `objects`"),
        ({"ref": ["a", 1], "bbox": [[0, 0, 1, 1]]}, "Found a `ref` that is not a list of texts"),
        ({"ref": ["a", "a"], "bbox": [[0, 0, 1]]}, r"Box 1 is \[0, 0, 1\]; expected the numbers"),
        ({"ref": ["a", "a"], "bbox": [[0, 0, 1, "1"]]}, r"Box 1 is \[0, 0, 1, '1'\]; expected the numbers"),
        ({"ref": ["a", "a"], "bbox": [[0, 0, 1, float("nan")]]}, r"Box 1 is \[0, 0, 1, nan\]"),
        ({"ref": ["a", "a"], "bbox": [[0, 0, 401, 10]]}, r"Box 1 is \[0\.0, .*\] in a picture of 400 x 200 pixels"),
        ({"ref": ["a", "a"], "bbox": [[9, 0, 1, 10]]}, r"Box 1 is \[9\.0, .*\] in a picture"),
        ({"ref": ["a", "a"], "bbox": [[0, -1, 1, 10]]}, r"Box 1 is \[0\.0, -1\.0"),
        ({"ref": ["a", "a"], "bbox": [[0, 0, 2, 1]], "bbox_type": "norm1"}, r"Box 1 is .* in a picture; expected"),
        ({"ref": ["a", "a"], "bbox": [[0, 0, 2, 1]], "bbox_type": "norm1000"}, "Found the bbox_type 'norm1000'"),
        ({"ref": ["a", "a"], "bbox": [[0, 0, 2, 1]], "image_id": [1]}, "Found the image_id 1 with 1 pictures"),
        (
            {"ref": ["a", "a"], "bbox": [[0, 0, 2, 1]], "image_id": [0, 0]},
            r"Found 1 boxes, 1 pictures and the image_id",
        ),
        ({"ref": ["a", "a"], "bbox": [[0, 0, 2, 1]], "mask": [1]}, "Found 'mask' in `objects`"),
        ([1], "Found `objects` of type list"),
    ],
)
def test_refused_objects(vl2, objects, message):
    one = {**row(), "objects": objects}
    with pytest.raises((ValueError, TypeError), match=rf"Row 1 of the batch: {message}"):
        ConversationCollator(vl2.processor)([one])


def test_boxes_of_several_pictures_need_their_numbers(vl2):
    one = row(images=[WIDE, WIDE], question="<image><image>Find <ref-object>.", ref=["a", "a"], bbox=[[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="Found 1 boxes, 2 pictures and the image_id None"):
        ConversationCollator(vl2.processor)([one])
