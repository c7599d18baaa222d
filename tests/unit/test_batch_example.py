"""`examples/batch.py` without an engine: what is asked, what was answered before, and pictures that cannot be read."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

import batch


class Engine:
    """Answers each conversation with its question."""

    def chat(self, conversations, sampling, use_tqdm):
        texts = [conversation[0]["content"][1]["text"] for conversation in conversations]
        return [SimpleNamespace(outputs=[SimpleNamespace(text=f" {text} ")]) for text in texts]


@pytest.fixture
def pictures(tmp_path):
    for name in ("b.png", "a.PNG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")
    (tmp_path / "note.txt").write_text("no picture")
    return tmp_path


def test_a_folder_is_read_in_order(pictures):
    found = batch.tasks_of(pictures, "What?")
    assert found == [{"picture": str(pictures / name), "prompt": "What?"} for name in ("a.PNG", "b.png")]


def test_lines_have_prompts_of_their_own(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"picture": "a.png", "prompt": "One?"}\n\n{"picture": "b.png"}\n')
    assert [task["prompt"] for task in batch.tasks_of(file, "What?")] == ["One?", "What?"]
    file.write_text('{"picture": "a.png"}\n{"image": "b.png"}\n')
    with pytest.raises(ValueError, match=r"questions.jsonl, line 2: expected"):
        batch.tasks_of(file, "What?")


def test_what_was_answered_is_not_asked_again(tmp_path):
    output = tmp_path / "answers.jsonl"
    assert batch.answered(output) == set()
    line = json.dumps({"picture": "a.png", "prompt": "What?", "answer": "x"})
    output.write_text(f'{line}\n{{"picture": "b.p')  # the run was stopped in the middle of a line
    assert batch.answered(output) == {("a.png", "What?")}
    assert output.read_text() == f"{line}\n"


def test_a_picture_that_cannot_be_read_does_not_end_the_run(pictures):
    tasks = [{"picture": name, "prompt": "What?"} for name in ("b.png", "note.txt", "missing.png")]
    found = batch.answer(Engine(), None, tasks, pictures)
    assert found[0] == {"picture": "b.png", "prompt": "What?", "answer": "What?"}
    assert ["error" in task for task in found] == [False, True, True]
