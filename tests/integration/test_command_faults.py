"""What a user can get wrong ends in one line that says what, never in a traceback."""

import json
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

from deepseek_vl_hf.chat.session import Chat
from deepseek_vl_hf.cli import conversation, describe, main
from deepseek_vl_hf.cli.conversation import ChatLoop

SHAPES, WORDS = "examples/pictures/shapes.png", "examples/pictures/words.png"


@pytest.fixture
def checkpoint(original, tmp_path):
    """A copy whose files may be changed."""
    folder = shutil.copytree(original, tmp_path / "checkpoint")
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def cut_off(folder):
    """As a download that broke off leaves it."""
    path = min(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-500])
    return path.name, "Download the file again"


def another_size(folder):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["language_config"]["intermediate_size"] += 8
    path.write_text(json.dumps(content))
    return str(folder), ""


def index_is_a_list(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')
    return "model.safetensors.index.json", "weight_map"


def generation_is_a_list(folder):
    (folder / "generation_config.json").write_text("[]")
    return "generation_config.json", "holds a JSON list; expected an object"


def generation_has_text(folder):
    (folder / "generation_config.json").write_text('{"max_new_tokens": "x"}')
    return "generation_config.json", "max_new_tokens 'x'; expected a whole number"


def generation_has_nan(folder):
    (folder / "generation_config.json").write_text('{"temperature": NaN}')
    return "generation_config.json", "temperature nan; expected a number"


def tokenizer_is_nothing(folder):
    (folder / "tokenizer.json").write_text("{}")
    return str(folder), ""


DAMAGES = (
    *(cut_off, another_size, index_is_a_list, generation_is_a_list, generation_has_text, generation_has_nan),
    tokenizer_is_nothing,
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("command", ["describe", "quantize", "convert"])
def test_damaged_checkpoints(checkpoint, tmp_path, capsys, command, damage):
    """Each command refuses; what it says names the file or the folder, and nothing is written."""
    place, message = damage(checkpoint)
    target = tmp_path / "target"
    words = {
        "describe": ["describe", SHAPES, "--model", str(checkpoint)],
        "quantize": ["quantize", str(checkpoint), str(target), "--group-size", "32", "--device", "cpu"],
        "convert": ["convert", str(checkpoint), str(target)],
    }
    assert main(words[command]) == 1
    shown = capsys.readouterr().err
    error = shown[shown.rindex("error: ") :]
    assert "Traceback" not in shown
    assert "unexpected" not in error
    assert message in error
    assert place in error or command == "convert"  # which names the value in the file
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_debug_shows_where_it_arose(checkpoint, capsys):
    cut_off(checkpoint)
    assert main(["--debug", "describe", SHAPES, "--model", str(checkpoint)]) == 1
    first, *_, last = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert first == "Traceback (most recent call last):"
    assert last.startswith("error: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "words", [["describe", SHAPES], ["chat"], ["quantize", "nano", "target"]], ids=lambda words: words[0]
)
def test_a_device_that_is_not_there(capsys, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "shapes.png")
    words = ["shapes.png" if word == SHAPES else word for word in words]
    for device in ("cuda", "cuda:7") if words[0] != "quantize" else ("cuda",):
        assert main([*words, "--device", device]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: The device '{device}' cannot be used here (")


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:a"])
def test_devices_that_are_none(device):
    with pytest.raises(ValueError, match=f"The device '{device}' cannot be used here"):
        Chat.from_pretrained(device=device)


@pytest.fixture
def pictures(tmp_path):
    """Two that are whole, and between them one whose end is missing and one that is none."""
    for name in ("a.png", "d.png"):
        Image.open(SHAPES).save(tmp_path / name)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.png").write_bytes(b"not a picture")
    return [str(tmp_path / name) for name in ("a.png", "b.png", "c.png", "d.png")]


def test_describe_goes_on_after_a_broken_picture(pictures, capsys):
    assert main(["describe", *pictures, "-p", "How many shapes are there?"]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"{pictures[0]}: 4\n{pictures[3]}: 4\n"
    *errors, last = shown.err.splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in errors] == pictures[1:3]
    assert last == f"error: not described (2 of 4): {pictures[1]}, {pictures[2]}"


def test_describe_as_json_has_an_entry_for_each(pictures, capsys):
    assert main(["describe", *pictures, "--json", "-p", "How many shapes are there?"]) == 1
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["pictures"] for entry in entries] == [[picture] for picture in pictures]
    assert [entry.get("answer") for entry in entries] == ["4", None, None, "4"]
    assert all(entry["error"].startswith(entry["pictures"][0]) for entry in entries[1:3])


@pytest.mark.parametrize("name", ["./missing", ".hidden/model", "folder/./missing"])
def test_a_path_that_leads_nowhere_is_no_name_on_the_hub(capsys, name):
    assert main(["describe", SHAPES, "--model", name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {name} is no folder. Expected a checkpoint's folder or a Hub repository's name."


def test_pictures_together_need_all_of_them(pictures, capsys):
    assert main(["describe", *pictures, "--together"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {pictures[2]}: No image could be read")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "missing.png: There is no file 'missing.png'"),
        ("", "Found no name of a picture"),
        ("~nobodyhere/a.png", "~nobodyhere/a.png: There is no file '~nobodyhere"),
        (__file__, f"{__file__}: No image could be read"),
        ("\udcff.png", r"\udcff.png: There is no file"),
    ],
    ids=["missing", "empty", "home", "text", "bytes"],
)
@pytest.mark.parametrize("words", [["describe"], ["chat", "--image"]], ids=lambda words: words[0])
def test_pictures_are_looked_at_before_a_model_is_loaded(capsys, monkeypatch, words, name, message):
    for module in ("chat", "describe"):
        monkeypatch.setattr(f"deepseek_vl_hf.cli.{module}.load_chat", None)
    assert main([*words, name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_folders_are_for_describe(capsys, monkeypatch, tmp_path):
    """In a conversation a picture is named; `describe` takes all of a folder, of which there are none here."""
    for module in ("chat", "describe"):
        monkeypatch.setattr(f"deepseek_vl_hf.cli.{module}.load_chat", None)
    for words, message in (
        (["chat", "--image"], "This is a folder. Name the pictures in it."),
        (["describe"], "Found no pictures in this folder. Name another, or pass --recursive for the folders in it."),
    ):
        assert main([*words, str(tmp_path)]) == 1
        assert capsys.readouterr().err == f"error: {tmp_path}: {message}\n"


def test_a_message_that_is_too_long_for_one_picture(capsys):
    """The others are asked about; here it is too long for each."""
    assert main(["describe", SHAPES, WORDS, "-p", "x" * 20000]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    first, second, last = shown.err.splitlines()
    assert first.startswith(f"error: {SHAPES}: The message takes ")
    assert second.startswith(f"error: {WORDS}: The message takes ")
    assert last.startswith("error: not described (2 of 2)")


def lines(*texts):
    """What `ChatLoop` reads, to its end."""
    rest = iter(texts)

    def read(label):
        line = next(rest, None)
        if line is None:
            raise EOFError
        return line

    return read


@pytest.fixture
def chat(vl):
    return Chat(vl.model, vl.processor, max_new_tokens=1)


def test_a_pipe_that_ends_where_a_picture_is_asked_for(chat, capsys):
    message = "<image_placeholder> or <image_placeholder>?"
    assert ChatLoop(chat, lines("one", message, SHAPES), at_terminal=False).run() == 1
    assert "The input ended where picture 2 of 2 was asked for; the message is dropped." in capsys.readouterr().err
    assert [turn.text for turn in chat.turns] == ["one"]


def test_names_behind_a_bad_one_are_no_messages(chat, capsys):
    message = "<image_placeholder> or <image_placeholder>?"
    assert ChatLoop(chat, lines(message, "missing.png", SHAPES, "two"), at_terminal=False).run() == 1
    assert capsys.readouterr().err == (
        "error: missing.png: There is no file 'missing.png'. Expected a path to an image file, an http(s) URL, a file: "
        "or data: URI, or base64 text.\n"
    )
    assert [turn.text for turn in chat.turns] == ["two"]


def test_a_pipe_that_ends_behind_a_picture(chat, capsys):
    assert ChatLoop(chat, lines(f"/image {SHAPES}"), at_terminal=False).run() == 1
    assert "The input ended without a message for the pictures (1)." in capsys.readouterr().err


def test_nobody_reads_the_answers(chat, monkeypatch):
    """The loop ends at once, in place of answering on."""

    def gone(*_, **__):
        raise BrokenPipeError

    for module, run in (
        (conversation, lambda: ChatLoop(chat, lines("one", "two"), at_terminal=False).run()),
        (describe, lambda: main(["describe", SHAPES, WORDS])),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, "print", gone, raising=False)
            if module is describe:
                assert run() == 141
            else:
                with pytest.raises(BrokenPipeError):
                    run()


@contextmanager
def small_disk(size):
    """Limits the size of files, which stands for a full disk: the system refuses to write on."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("command", "size"), [("quantize", 100_000), ("quantize", 200), ("convert", 300_000)])
def test_a_disk_that_fills_up(original, tmp_path, capsys, command, size):
    """Where it fills up is no matter: among the weights, or before them."""
    options = ["--group-size", "32", "--device", "cpu"] if command == "quantize" else []
    with small_disk(size):
        status = main([command, str(original), str(tmp_path / "target"), "--quiet", *options])
    assert status == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {tmp_path / 'target'} was not written: File too large. Free some space, or name a folder elsewhere."
    )
    assert list(tmp_path.iterdir()) == []
