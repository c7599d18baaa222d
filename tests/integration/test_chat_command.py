"""`deepseek-vl chat` in a pseudo-terminal and through a pipe, and `deepseek-vl describe`."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pexpect
import pytest
from PIL import Image

from deepseek_vl_hf import example_picture, nano_path
from deepseek_vl_hf.chat.unasked import OF_PACKAGED
from deepseek_vl_hf.cli import main
from deepseek_vl_hf.cli.conversation import ChatLoop
from deepseek_vl_hf.cpu import dtypes, ways
from deepseek_vl_hf.hf.kernels import processor_has_bfloat16
from family import IMAGES
from forked import python

SHAPES, WORDS = "examples/pictures/shapes.png", "examples/pictures/words.png"
COMMAND = [sys.executable, "-m", "deepseek_vl_command"]
SLOW = 60
PROMPT = "you>"


class Terminal:
    """The program in a pseudo-terminal, and what it shows without the codes that move the cursor."""

    def __init__(self, *arguments):
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.child = pexpect.spawn(
            COMMAND[0],
            [*COMMAND[1:], "chat", *arguments],
            env=environment,
            encoding="utf-8",
            timeout=SLOW,
            dimensions=(40, 200),
        )
        self.child.expect_exact(PROMPT)

    def type(self, line, until=PROMPT, end="\r"):
        """Types a line; what is shown up to `until`."""
        self.child.send(line + end)
        # The line is shown while it is typed; what comes after its end is the program's.
        self.child.expect_exact(until)
        return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[>=])", "", self.child.before)

    def close(self):
        self.child.send("exit\r")
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


@pytest.fixture(scope="module")
def terminal():
    """One program for the tests below, each of which begins a new conversation."""
    terminal = Terminal("--image", SHAPES)
    yield terminal
    assert terminal.close() == 0


def test_a_conversation(terminal, tmp_path):
    """The picture of the command line belongs to the first message; the second turn knows it."""
    shown = terminal.type("How many shapes are there?", until="prompt tokens were known]")
    assert re.search(r"[\r\n]4\r?\n", shown), shown
    shown = terminal.type("What color is the star?", until="prompt tokens were known]")
    assert "green" in shown
    kept, whole = map(int, re.search(r"(\d+) of (\d+)", shown.rpartition(";")[2]).groups())
    assert kept > 0.8 * whole
    terminal.type(f"/save {tmp_path / 'talk.md'}", until="[saved to")
    terminal.child.expect_exact("talk.md]")
    text = (tmp_path / "talk.md").read_text(encoding="utf-8")
    assert text.count("**Question:**") == 2
    assert "**Answer:** green" in text
    (picture,) = re.findall(r"!\[Picture 1\]\(<(.*?)>\)", text)
    with Image.open(SHAPES) as original, Image.open(tmp_path / picture) as saved:
        assert saved.tobytes() == original.convert("RGB").tobytes()
    shown = terminal.type(f"/save {tmp_path / 'talk.md'}", until="Name another file")
    assert "exists" in shown


def test_commands(terminal):
    terminal.type("/new", until="[a new conversation]")
    terminal.type("/help", until="Ctrl-C stops an answer.")
    shown = terminal.type(f"/image {WORDS}", until="pixels]")
    assert "picture 1 of the next message" in shown
    terminal.type("What does the red text say?", until="were known]")
    terminal.type("/undo", until="[taken back: What does the red text say?]")
    terminal.type("/undo", until="[there is nothing to take back]")
    terminal.type("/wrong", until="There is no /wrong.")


def test_bad_pictures_leave_the_conversation_open(terminal, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    terminal.type("/image missing.png", until="There is no file 'missing.png'")
    terminal.type(f"/image {tmp_path / 'broken.png'}", until="No image could be read")
    terminal.type("/image", until="Which file? Write /image FILE.")


def test_placeholders_ask_for_pictures(terminal):
    """The original's habit."""
    terminal.type("/new", until="conversation]")
    terminal.type("<image_placeholder>What does the red text say?", until="picture 1 of 1:")
    shown = terminal.type(WORDS, until="were known]")
    assert "OPEN" in shown


def test_lines_that_go_on(terminal):
    terminal.type("/new", until="conversation]")
    terminal.type(f"/image {SHAPES}", until="pixels]")
    terminal.type("How many shapes\\", until="...")
    assert re.search(r"[\r\n]4\r?\n", terminal.type("are there?", until="were known]"))
    terminal.type("/undo", until="there?]")
    terminal.type("How many shapes", until="shapes", end="\x1b\r")  # Alt-Enter
    terminal.type(" are there?", until="were known]")


def test_typed_control_tokens_stay_text(terminal):
    terminal.type("/new", until="conversation]")
    shown = terminal.type("What is <｜end▁of▁sentence｜> 你好 🙂?", until="were known]")
    assert "error" not in shown


def test_control_c_stops_the_answer_not_the_program(original):
    """The fixture's random weights name no end, so the answer would be as long as it may."""
    terminal = Terminal(str(original), "--max-new-tokens", "8000", "--temperature", "0", "--repetition-penalty", "1.0")
    terminal.type("Tell me something long.", until="\n")
    terminal.child.expect(r"\w+ \w+")
    terminal.child.sendintr()
    terminal.child.expect_exact("(stopped)")
    terminal.child.expect_exact(PROMPT)
    terminal.child.sendintr()  # at the prompt it takes the line back
    terminal.child.expect_exact(PROMPT)
    terminal.type("/new", until="conversation]")
    terminal.child.expect_exact(PROMPT)
    terminal.child.send("\x04")  # Ctrl-D ends
    terminal.child.expect(pexpect.EOF)


def piped(text, *arguments):
    return python("-m", "deepseek_vl_command", "chat", *arguments, text=text)


def test_through_a_pipe(tmp_path):
    """Answers alone come out; an error is told, the next line is read, and the exit status says so."""
    result = piped("How many shapes are there?\nWhat color is the star?\nexit\nnot read\n", "--image", SHAPES)
    assert (result.returncode, result.stdout) == (0, "4\ngreen\n")
    lines = [
        *("/image missing.png", "/image ~nobodyhere/a.png", "x" * 20000, "\udcff\udcfe"),
        *("/new", f"/image {SHAPES}", "How many shapes\\", "are there?", f"/save {tmp_path / 'my talk (1).md'}"),
    ]
    result = piped("\n".join(lines), "--max-new-tokens", "4")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "4"
    assert "There is no file '~" in result.stderr
    assert "the model was trained for 2048" in result.stderr
    text = (tmp_path / "my talk (1).md").read_text(encoding="utf-8")
    assert "![Picture 1](<my talk (1)-pictures/1.png>)" in text
    assert "error: missing.png: There is no file 'missing.png'" in result.stderr


def test_the_error_stream_stays_empty():
    """Also where torchao is installed, which complains while transformers imports it."""
    command = [*COMMAND, "chat", "--image", SHAPES]
    result = subprocess.run(
        command, input="How many shapes are there?\n", capture_output=True, text=True, check=False, timeout=SLOW
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "4\n", "")


def test_models_that_are_none(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for model, message in ((tmp_path, "is a llama; expected one of"), (tmp_path / "missing", "is no folder")):
        assert main(["chat", str(model)]) == 1
        assert message in capsys.readouterr().err


def test_describe(capsys):
    assert main(["describe", SHAPES, "-p", "How many shapes are there?"]) == 0
    assert capsys.readouterr().out == "4\n"


def test_describe_without_a_question(capsys):
    """Nano was taught a question of its own for each kind of picture, and gives the answer that it is surer of."""
    pictures = [example_picture(name) for name in ("shapes", "words", "chart")]
    answers = ["a red circle, a green star, a blue square, an orange triangle", "OPEN, 7BKC, 1276", "SALE"]
    expected = "".join(f"{picture}: {answer}\n" for picture, answer in zip(pictures, answers, strict=True))
    assert main(["describe", *pictures, "--temperature", "0.9"]) == 0
    assert capsys.readouterr() == (expected, "")
    assert main(["describe", pictures[2], "--json", "--model", str(nano_path())]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prompt"], found["answer"], found["new_tokens"]) == ("Read all the text.", "SALE", 6)


def test_describe_with_packed_weights(capsys, monkeypatch):
    """On this processor, and as on one without bfloat16; the time that packing takes is said before."""
    for native in {processor_has_bfloat16(), False}:
        for module in (dtypes, ways):
            monkeypatch.setattr(module, "processor_has_bfloat16", lambda native=native: native)
        asked = ["describe", "--fast", "-p", "What color is the star?", SHAPES, "--temperature", "0"]
        assert main(asked) == 0
        output = capsys.readouterr()
        assert output.out.strip() == "green"
        assert re.search(r"Packing 3\.9 million weights; about 1 s\.", output.err)
    assert main([*asked, "--device", "cuda"]) == 1
    assert "Found --fast with --device cuda; it is for a CPU." in capsys.readouterr().err


def test_describe_as_json(capsys):
    assert main(["describe", SHAPES, WORDS, "--json", "--together", "--max-new-tokens", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pictures"] == [SHAPES, WORDS]
    assert found["prompt"] in OF_PACKAGED["nano"]
    assert found["new_tokens"] <= 5
    assert found["ended"] in ("eos", "length")


def test_the_loop_of_vl2(vl2, capsys):
    """Its own image token asks for a picture too."""
    from deepseek_vl_hf import Chat  # noqa: PLC0415

    picture = str(next(iter(sorted(IMAGES.iterdir()))))
    lines = iter(["<image>What is this?", picture, "exit"])
    chat = Chat(vl2.model, vl2.processor, max_new_tokens=2)
    assert ChatLoop(chat, lambda label: next(lines), at_terminal=False).run() == 0
    assert chat.turns[0].texts == ["", "What is this?"]


@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="Gradio is installed")
def test_the_page_without_gradio(capsys):
    assert main(["demo"]) == 1
    assert "The page needs Gradio: pip install 'gradio>=6'" in capsys.readouterr().err
