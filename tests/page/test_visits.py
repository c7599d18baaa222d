"""What the page of `deepseek-vl demo` shows, without a server: answers, errors, limits, and what was seen."""

import copy
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="Gradio is not installed (pip install -e '.[demo]')")

from deepseek_vl_hf import Chat, example_picture
from deepseek_vl_hf.chat import limits, page_errors
from deepseek_vl_hf.chat.page import MOST_CONVERSATIONS, Visit, Visits, answer, what_was_seen
from family import IMAGES

FIRST = min(IMAGES.iterdir())
OCR_PAGE = Path("tests/fixtures/deepseek_ocr/images/page.png").resolve()
# Gradio's own, about pandas.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_boxes_are_drawn():
    chat = Chat.from_pretrained("nano-vl2", dtype="float32")
    assert what_was_seen(chat) == []
    picture = example_picture("places")
    chat.ask("What color is the star?", [picture])
    assert next(label for _, label in what_was_seen(chat)).startswith("the whole and")
    chat.ask("<|ref|>the green star<|/ref|>")
    (drawn, label), *_ = what_was_seen(chat)
    assert label == "the green star"
    with Image.open(picture) as original:
        assert drawn.size == original.size
        assert drawn.tobytes() != original.convert("RGB").tobytes()


@pytest.mark.parametrize(("mode", "seen"), [("gundam", "the whole and"), ("tiny", "the whole of")])
def test_what_deepseek_ocr_saw(ocr, mode, seen):
    """Its tiles are apart from the view of the whole, and some modes have none."""
    chat = Chat(ocr.model, copy.deepcopy(ocr.processor), max_new_tokens=2)
    chat.processor.image_processor.mode = mode
    chat.ask("Free OCR.", [str(OCR_PAGE)])
    (drawn, label) = what_was_seen(chat)[-1]
    assert label.startswith(seen)
    assert drawn.size == (512, 512) if mode == "tiny" else drawn.width > 640


@pytest.fixture
def visit(vl2):
    chat = Chat(vl2.model, vl2.processor, do_sample=False, repetition_penalty=1.0, max_new_tokens=6)
    return Visit(chat)


def test_stopped_before_the_answer(visit):
    """The question goes back into its field, and the turns before stay."""
    list(answer(visit, {"text": "one", "files": [str(FIRST)]}, IMAGES))
    before = list(visit.shown)
    visit.chat.progress = lambda what, done, total: visit.chat.stop()
    *_, (shown, question, figures, _) = answer(visit, {"text": "x" * 800, "files": [str(FIRST)]}, IMAGES)
    assert shown == before
    assert question.value["text"] == "x" * 800
    assert figures.startswith("Stopped before the answer began")
    assert [turn.text for turn in visit.chat.turns] == ["one"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no kernel in /srv/models"), "Something went wrong on the server"),
        (torch.OutOfMemoryError("tried to allocate 2 GiB"), "The server has too little memory for this conversation"),
    ],
)
def test_an_error_in_the_middle_of_an_answer(visit, monkeypatch, caplog, error, said):
    """Page and conversation agree that there was no such turn; the reason is in the log alone."""
    monkeypatch.setattr(page_errors.logger, "propagate", True)
    list(answer(visit, {"text": "one", "files": []}, IMAGES))
    before, calls = list(visit.shown), []
    forward = visit.chat.model.lm_head.forward

    def fail_at_the_third(*args):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return forward(*args)

    monkeypatch.setattr(visit.chat.model.lm_head, "forward", fail_at_the_third)
    *_, (shown, question, figures, _) = answer(visit, {"text": "two", "files": []}, IMAGES)
    assert shown == visit.shown == before
    assert question.value["text"] == "two"
    assert said in figures
    assert str(error) not in figures
    assert str(error) in caplog.text
    assert [turn.text for turn in visit.chat.turns] == ["one"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"text": "x" * 8001}, "The text has 8001 characters; at most 8000 fit"),
        ({"files": [str(FIRST)] * 9}, "The message has 9 pictures; at most 8 fit"),
        ({"files": ["/etc/hostname"]}, "was not uploaded"),
        ({"files": ["file:///etc/hostname"]}, "was not uploaded"),
        ({"files": [f"file://{FIRST}"]}, "was not uploaded"),
        ({"files": ["http://127.0.0.1:9/a.png"]}, "was not uploaded"),
        ({"files": [f"{IMAGES}/../../conftest.py"]}, "was not uploaded"),
        ({"files": [FIRST.name]}, "was not uploaded"),
    ],
    ids=["text", "pictures", "path", "file", "file-of-an-upload", "link", "way-out", "relative"],
)
def test_messages_that_are_refused(visit, monkeypatch, message, reason):
    """No picture is opened, the question stays, and no file of the server stands in its field."""
    monkeypatch.setattr(visit.chat, "stream", None)
    ((shown, question, figures, _),) = answer(visit, message, IMAGES)
    assert shown == []
    assert reason in figures
    assert question.value["text"] == message.get("text", "")
    shown_again = [Path(file["path"]).name for file in question.value["files"]]
    assert shown_again == ([] if "uploaded" in reason else [FIRST.name for _ in message.get("files", ())])


def test_what_a_conversation_keeps(visit, monkeypatch):
    list(answer(visit, {"text": "one", "files": [str(FIRST)]}, IMAGES))
    for name, value, reason in (
        ("MOST_PICTURES_KEPT", 1, "would have 2 pictures; at most 1 are kept"),
        ("MOST_PIXELS_KEPT", 1000, "million pixels; at most"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(limits, name, value)
            ((_, _, figures, _),) = answer(visit, {"text": "two", "files": [str(FIRST)]}, IMAGES)
        assert reason in figures
    assert [turn.text for turn in visit.chat.turns] == ["one"]


def test_visits_are_apart_and_few(visit):
    visits = Visits(lambda: Chat(visit.chat.model, visit.chat.processor))
    first = visits.of("a")
    assert visits.of("a") is first
    assert visits.of("b") is not first
    for number in range(MOST_CONVERSATIONS):
        visits.of(str(number))
    assert not visits.holds("a", first)
    second = visits.of("b")
    visits.end("b")
    assert not visits.holds("b", second)
    assert visits.of("b") is not second


def test_a_message_longer_than_the_context(visit, caplog):
    """Is the visitor's to change, and no matter for the log."""
    visit.chat.model.config.get_text_config().max_position_embeddings, kept = 50, visit.chat.context
    try:
        *_, (_, question, figures, _) = answer(visit, {"text": "one two " * 60, "files": []}, IMAGES)
    finally:
        visit.chat.model.config.get_text_config().max_position_embeddings = kept
    assert "Send less text or fewer pictures." in figures
    assert question.value["text"].startswith("one two")
    assert not caplog.records
