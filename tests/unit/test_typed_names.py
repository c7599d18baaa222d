"""Names of files as people type them after commands, and as terminals paste the paths of files that are dropped."""

import shutil
from pathlib import Path

import pytest

from deepseek_vl_hf import Chat, example_picture
from deepseek_vl_hf.cli.conversation import ChatLoop
from deepseek_vl_hf.cli.typed_names import dropped_names, name_in, names_in

WINDOWS = r"C:\My Pictures\new one.png"  # here the name of a file, with backslashes in it
TYPED = {
    "a.png": ["a.png"],
    "my picture.png": ["my picture.png"],
    '"my picture.png"': ["my picture.png"],
    "'my picture.png'": ["my picture.png"],
    r"my\ picture.png": ["my picture.png"],
    "a.png 'my picture.png'": ["a.png", "my picture.png"],
    r"'it'\''s.png'": ["it's.png"],
    "it's.png": ["it's.png"],
    '"5\\" of \\$3.png"': ['5" of $3.png'],
    WINDOWS: [WINDOWS],
    f'"{WINDOWS}"': [WINDOWS],
    r'"D:\not here\a.png"': [r"D:\not here\a.png"],
    r"\\server\share\a.png": [r"\\server\share\a.png"],
    "file:///tmp/my%20picture.png": ["file:///tmp/my%20picture.png"],
    '"https://host/a b.png"': ["https://host/a b.png"],
    "no such.png": ["no such.png"],
    '"no end.png': ['"no end.png'],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "my picture.png", "it's.png", '5" of $3.png', WINDOWS):
        shutil.copy(example_picture("shapes"), name)
    return tmp_path


def test_behind_the_command(folder):
    assert {text: names_in(text) for text in TYPED} == TYPED


def test_of_one_file(folder, monkeypatch):
    """As after /image, but for what looks like several files; on Windows backslashes stand between folders."""
    typed = {text: (names[0] if len(names) == 1 else text) for text, names in TYPED.items()}
    assert {text: name_in(text) for text in typed} == typed
    monkeypatch.setattr("deepseek_vl_hf.cli.typed_names.BACKSLASH_ESCAPES", False)
    assert [name_in(text) for text in (r"talks\new.md", r'"my talks\new.md"')] == [r"talks\new.md", r"my talks\new.md"]


def test_dropped_files(folder):
    """Whole paths of files that are there; what else begins a message is a part of it."""
    path, plain = f"{folder}/my picture.png", f"{folder}/a.png"
    escaped = path.replace(" ", r"\ ")
    dropped = {
        path: ([path], ""),  # as terminals that escape nothing paste it
        f"'{path}' ": ([path], ""),
        f'"{path}" What is this?': ([path], "What is this?"),
        f"{escaped} {plain} Which one?": ([path, plain], "Which one?"),
        f"file://{folder}/my%20picture.png\nWhat?": ([f"file://{folder}/my%20picture.png"], "What?"),
        f'"{WINDOWS}" What is \\this?': ([WINDOWS], "What is \\this?"),
    }
    assert {line: dropped_names(line) for line in dropped} == dropped
    for line in ("a.png what is this?", f"{plain}?", f"{folder} what?", "/missing.png what?", "it's \\ ' what?", " a "):
        assert dropped_names(line) == ([], line)


def test_in_a_conversation(vl, folder, capsys):
    """At a terminal a dropped file is a picture; a pipe has to say /image."""
    chat = Chat(vl.model, vl.processor, max_new_tokens=1)
    path = f"'{folder}/my picture.png'"
    lines = [path, f"{path} What is this?", '/image "my picture.png"', r"<image_placeholder>and \this?", path]
    for at_terminal, sizes in ((True, [2, 2]), (False, [0, 0, 2])):
        rest = iter([*lines, "exit"])
        loop = ChatLoop(chat, lambda label, rest=rest: next(rest), at_terminal)
        assert loop.run() == 0
        assert [len(turn.pictures) for turn in chat.turns] == sizes
        chat.new()
    rest = iter(["What?", r"/save my\ talk.zip", "/new", "/load 'my talk.zip'", "exit"])
    assert ChatLoop(chat, lambda label: next(rest), at_terminal=True).run() == 0
    assert Path("my talk.zip").is_file()
    shown = capsys.readouterr().out
    assert "loaded; turns: 1" in shown
    assert "[picture 2 of the next message: my picture.png, 640 x 640 pixels]" in shown
    rest = iter([f"{path} {folder}/broken.png", "exit"])
    Path("broken.png").write_text("no picture", encoding="utf-8")
    ChatLoop(chat, lambda label: next(rest), at_terminal=True).run()
    assert "broken.png: No image could be read" in capsys.readouterr().err
