"""Answers of DeepSeek-OCR to blocks, Markdown and figures: the original's results, and what is broken."""

import json
import random

import pytest

from deepseek_vl_hf.ocr import PROMPTS, prompt_of, read_layout
from family import FIXTURES

CASES = json.loads((FIXTURES / "deepseek_ocr" / "cases.json").read_text(encoding="utf-8"))["postprocess"]
SIZE = (1000, 500)


def mark(label, boxes):
    return f"<|ref|>{label}<|/ref|><|det|>{boxes}<|/det|>"


def only_box(boxes, size=SIZE):
    """The one box of an answer, and the notes."""
    layout = read_layout(mark("text", boxes), size)
    (block,) = layout.blocks
    (box,) = block.boxes
    return box, layout.notes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["image"])
def test_markdown_is_the_originals(case):
    """But where its references and its files have drifted apart: its first figure has two boxes."""
    layout = read_layout(case["raw"], tuple(case["size"]))
    expected = case["result_mmd"]
    if case["image"] == "page.png":
        expected = expected.replace("![](images/1.jpg)", "![](images/2.jpg)")
        expected = expected.replace("![](images/0.jpg)\n", "![](images/0.jpg)\n![](images/1.jpg)\n")
        assert expected != case["result_mmd"]
    assert layout.markdown == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["image"])
def test_figures_are_the_originals(case):
    """The original writes a box that occurs twice into two files, and refers to the first one twice."""
    layout = read_layout(case["raw"], tuple(case["size"]))
    sizes = {name: [right - left, bottom - top] for name, (left, top, right, bottom) in layout.figures.items()}
    expected = {f"images/{name}": size for name, size in case["crops"].items()}
    if case["image"] == "turned.png":
        assert expected.pop("images/1.jpg") == expected["images/0.jpg"]
    assert sizes == expected
    assert all(name in layout.markdown for name in layout.figures)


def test_blocks():
    layout = read_layout(CASES[0]["raw"], tuple(CASES[0]["size"]))
    assert [(block.label, block.text, len(block.boxes), block.figures) for block in layout.blocks] == [
        ("", "Before", 0, ()),
        ("title", "# A title", 1, ()),
        ("image", "", 2, ("images/0.jpg", "images/1.jpg")),
        ("text", "x \\coloneqq y, z \\eqqcolon w", 1, ()),
        ("image", "<table><tr><td>1</td><td>2</td></tr></table>", 1, ("images/2.jpg",)),
        ("bad", "After", 0, ()),
    ]
    assert layout.notes == ("'bad': no box in 'not a list'; expected [[left, top, right, bottom]].",)


def test_a_box_that_comes_again_keeps_the_numbers_of_those_behind_it():
    box, other = "[[0, 0, 500, 500]]", "[[500, 500, 999, 999]]"
    layout = read_layout("\n".join(mark("image", each) for each in (box, box, other)), SIZE)
    assert layout.markdown == "![](images/0.jpg)\n\n![](images/0.jpg)\n\n![](images/2.jpg)"
    assert layout.figures == {"images/0.jpg": (0, 0, 500, 250), "images/2.jpg": (500, 250, 1000, 500)}


def test_names_of_figures():
    layout = read_layout(mark("image", "[[0, 0, 500, 500]]"), SIZE, lambda number: f"images/7_{number}.jpg")
    assert layout.markdown == "![](images/7_0.jpg)"
    assert [*layout.figures] == ["images/7_0.jpg"]


@pytest.mark.parametrize(
    ("boxes", "box", "note"),
    [
        ("[[0, 0, 999, 999]]", (0, 0, 1000, 500), None),
        ("[[1, 1, 998, 998]]", (1, 0, 998, 499), None),
        ("[1, 1, 998, 998]", (1, 0, 998, 499), None),
        ("[[ 10.5,20 ,\n30., 40]]", (10, 10, 30, 20), None),
        ("[[-5, 0, 1200, 500]]", (0, 0, 1000, 250), "reaches beyond 0 to 999 and is clipped"),
        ("[[0, 0, 10, 1" + "0" * 400 + "]]", (0, 0, 10, 500), "reaches beyond"),
        ("[[500, 400, 100, 200]]", (100, 100, 500, 200), "has its edges reversed; they are swapped"),
        ("[[1, 2, 3], [0, 0, 10, 10]]", (0, 0, 10, 5), "[1, 2, 3] is not four numbers and is left out"),
        ("[[1, 2, 3, x], [0, 0, 10, 10]]", (0, 0, 10, 5), "is not four numbers"),
        ("[[1, 2, 3, nan], [0, 0, 10, 10]]", (0, 0, 10, 5), "is not four numbers"),
        ("[[5, 5, 5, 90], [0, 0, 10, 10]]", (0, 0, 10, 5), "[5, 5, 5, 90] covers no pixel and is left out"),
        ("[[0, 0, 10, 10], [1, 2", (0, 0, 10, 5), None),
    ],
)
def test_boxes(boxes, box, note):
    found, notes = only_box(boxes)
    assert found == box
    assert (note is None and not notes) or (len(notes) == 1 and note in notes[0])


def test_a_picture_of_one_pixel():
    assert only_box("[[0, 0, 999, 999]]", (1, 1)) == ((0, 0, 1, 1), ())
    layout = read_layout(mark("image", "[[0, 0, 500, 500]]") + "\ntext", (1, 1))
    assert (layout.markdown, layout.figures) == ("text", {})
    assert layout.notes[-1] == "A figure has no usable box and is left out."
    with pytest.raises(ValueError, match="0 x 5 pixels"):
        read_layout("text", (0, 5))


def test_nothing_is_evaluated():
    layout = read_layout(mark("image", "[[__import__('os').abort(), 0, 0, 0]]"), SIZE)
    assert not layout.figures
    assert "is not four numbers" in layout.notes[0]


@pytest.mark.parametrize(
    ("answer", "markdown", "note"),
    [
        ("Text\n<|ref|>image<|/ref|><|det|>[[0, 0, 10, 10], [20,", "Text\n![](images/0.jpg)", "is cut off at the end"),
        ("Text\n<|ref|>image<|/ref|><|det|>", "Text", "is cut off at the end"),
        ("Text\n<|ref|>image<|/ref|>", "Text", "is cut off at the end"),
        ("Text\n<|ref|>ima", "Text\nima", "1 piece of broken marks removed near 'Text ima'"),
        ("<|det|>[[1, 2, 3, 4]]<|/det|>x", "[[1, 2, 3, 4]]x", "2 pieces of broken marks"),
        ("<|ref|>a <|ref|>b<|/ref|><|det|>[[0, 0, 9, 9]]<|/det|>c", "a c", "1 piece of broken marks"),
    ],
)
def test_broken_marks_cost_no_text(answer, markdown, note):
    layout = read_layout(answer, SIZE)
    assert layout.markdown == markdown
    assert any(note in each for each in layout.notes), layout.notes


def test_lines_with_places_are_the_text():
    """What "OCR this image." gives: the text stands in the labels."""
    lines = "\n".join(mark(text, "[[0, 0, 100, 100]]") for text in ("First line", "Second, with [1] brackets"))
    layout = read_layout(lines, SIZE)
    assert layout.markdown == "First line\nSecond, with [1] brackets"
    assert layout.notes == ()


def test_formulas_are_rewritten_where_there_is_a_layout():
    text = r"a \coloneqq b \eqqcolon c"
    assert read_layout(text, SIZE).markdown == text
    assert read_layout(mark("image", "[[0, 0, 9, 9]]") + text, SIZE).markdown.endswith(text)
    assert read_layout(mark("text", "[[0, 0, 9, 9]]") + text, SIZE).markdown == "a := b =: c"


@pytest.mark.parametrize("answer", ["", " \n", "<｜end▁of▁sentence｜>", "\n<｜end▁of▁sentence｜>"])
def test_an_empty_page(answer):
    layout = read_layout(answer, SIZE)
    assert layout == read_layout("", SIZE)
    assert (layout.markdown, layout.blocks) == ("", ())


def test_any_answer_is_read():
    """Pieces of marks in any order: no error, no marks in the Markdown, boxes within the picture."""
    marks = ["<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"]
    pieces = [*marks, "image", "[[1,2,3,4]]", "[", "]", "-7", ",", "1e9", "\n", "é"]
    choose = random.Random(0)
    for _ in range(500):
        layout = read_layout("".join(choose.choices(pieces, k=30)), (30, 20))
        assert "<|" not in layout.markdown
        for left, top, right, bottom in (box for block in layout.blocks for box in block.boxes):
            assert 0 <= left < right <= 30
            assert 0 <= top < bottom <= 20


def test_prompts():
    assert prompt_of("document") == "<|grounding|>Convert the document to markdown."
    assert prompt_of("locate", "the {red} car") == "Locate <|ref|>the {red} car<|/ref|> in the image."
    assert set(PROMPTS) == {"document", "ocr", "free", "figure", "describe", "locate"}
    for task, text, message in (
        ("none", None, "expected document, ocr"),
        ("locate", None, "no text to look for"),
        ("free", "x", "takes no text"),
    ):
        with pytest.raises(ValueError, match=message):
            prompt_of(task, text)


def test_the_prompts_are_those_that_the_original_was_asked():
    cases = json.loads((FIXTURES / "deepseek_ocr" / "cases.json").read_text(encoding="utf-8"))["cases"]
    asked = {case["prompt"].removeprefix("<image>").strip() for case in cases}
    assert PROMPTS["document"] in asked
    assert PROMPTS["free"] in asked
