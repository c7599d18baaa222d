"""Conversations that are saved and loaded: they go on as if they had not been, and damaged files are refused."""

import json
import zipfile

import pytest
import torch
from PIL import Image

from deepseek_vl_hf import Chat
from deepseek_vl_hf.chat import archive
from family import IMAGES

GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 6}
PICTURES = [str(path) for path in sorted(IMAGES.iterdir())[:3]]
SHAPES = "examples/pictures/shapes.png"


@pytest.fixture(scope="module")
def nano():
    chat = Chat.from_pretrained()
    return chat.model, chat.processor


def new_chat(vl2, **options):
    return Chat(vl2.model, vl2.processor, **GREEDY, **options)


@pytest.fixture
def saved(vl2, tmp_path):
    chat = new_chat(vl2)
    chat.ask("What is this?", PICTURES[:1])
    return chat.save(tmp_path / "talk.zip")


def test_nano_goes_on(nano, tmp_path):
    chat = Chat(*nano, do_sample=False, max_new_tokens=8)
    assert chat.ask("How many shapes are there?", [SHAPES]) == "4"
    file = chat.save(tmp_path / "talk.zip")
    other = Chat(*nano, do_sample=False, max_new_tokens=8).load(str(file))
    assert repr(other.turns) == repr(chat.turns)
    assert [other.ask("What color is the star?"), chat.ask("What color is the star?")] == ["green", "green"]
    assert other.figures.prompt_tokens == chat.figures.prompt_tokens
    assert other.figures.kept_tokens == 0 < chat.figures.kept_tokens


def test_tiles_and_system_prompt_go_on(vl2, tmp_path):
    """The first picture is tiled, and stays so; the third is not."""
    chat = new_chat(vl2, system="You are brief.")
    for number in range(2):
        chat.ask(["Look: ", " What is it?"], PICTURES[number : number + 1])
    other = new_chat(vl2).load(chat.save(tmp_path / "talk.zip"))
    assert other.system == "You are brief."
    for one, two in zip(chat.turns, other.turns, strict=True):
        assert (one.texts, one.lengths, one.count, one.answer) == (two.texts, two.lengths, two.count, two.answer)
        assert [picture.tobytes() for picture in one.pictures] == [picture.tobytes() for picture in two.pictures]
    answers = [each.ask("And this?", PICTURES[2:3], max_new_tokens=12) for each in (chat, other)]
    assert answers[0] == answers[1] != ""
    assert chat.figures.prompt_tokens == other.figures.prompt_tokens
    assert chat.turns[0].lengths[0] > chat.turns[-1].lengths[0]
    for one, two in zip(chat.turns, other.turns, strict=True):
        for first, second in zip(one.images, two.images, strict=True):
            assert first.embeds.equal(second.embeds)
    again = other.save(tmp_path / "again.zip")
    assert len(new_chat(vl2).load(again).turns) == 3


def test_a_file_holds_json_and_pictures_alone(saved):
    with zipfile.ZipFile(saved) as file:
        assert file.namelist() == ["pictures/1.png", "conversation.json"]
        content = json.loads(file.read("conversation.json"))
        with file.open("pictures/1.png") as picture, Image.open(picture) as opened:
            assert (opened.format, opened.mode) == ("PNG", "RGB")
    assert content["turns"][0]["texts"] == ["", "What is this?"]


def test_another_model_is_named(nano, saved, vl2, families):
    with pytest.raises(ValueError, match=r"another model, 'vl2_mha' \(type 'deepseek_vl2' instead of 'deepseek_vl_hyb"):
        Chat(*nano).load(saved)
    other = families["vl2_mha"].load()
    other.base_model.language_model.norm.weight.data[0] += 1
    with pytest.raises(ValueError, match="another model, 'vl2_mha' \\(other weights\\)"):
        Chat(other, vl2.processor).load(saved)


def test_another_type_of_numbers_is_the_same_model(saved, vl2, families):
    chat = Chat(families["vl2_mha"].load(torch.bfloat16), vl2.processor, **GREEDY)
    assert len(chat.load(saved).turns) == 1


def test_what_is_refused_before_anything_is_written(vl2, saved, tmp_path):
    chat = new_chat(vl2)
    with pytest.raises(ValueError, match="nothing to save"):
        chat.save(tmp_path / "empty.zip")
    chat.load(saved)
    before = saved.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        chat.save(saved)
    assert saved.read_bytes() == before
    with pytest.raises(ValueError, match=r"expected .zip, for chat.load, or .md"):
        chat.save(tmp_path / "talk.pkl")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        chat.save(tmp_path / "missing" / "talk.zip")
    chat.ask("More?")
    assert len(new_chat(vl2).load(chat.save(saved, overwrite=True)).turns) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["talk.zip"]


def test_an_error_while_writing_leaves_nothing(vl2, saved, tmp_path, monkeypatch):
    chat = new_chat(vl2).load(saved)
    before = saved.read_bytes()
    monkeypatch.setattr(archive, "identity_of", lambda model: 1 / 0)
    for path, overwrite in ((tmp_path / "other.zip", False), (saved, True)):
        with pytest.raises(ZeroDivisionError):
            chat.save(path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.zip"]
    assert saved.read_bytes() == before


def changed(saved, change=None, **members):
    """The file with other members, or with what a function makes of its JSON."""
    with zipfile.ZipFile(saved) as file:
        found = {name: file.read(name) for name in file.namelist()}
    if change is not None:
        content = json.loads(found["conversation.json"])
        change(content)
        found["conversation.json"] = json.dumps(content).encode()
    found |= {name.replace("__", "/").replace("_png", ".png"): data for name, data in members.items()}
    with zipfile.ZipFile(saved, "w") as file:
        for name, data in found.items():
            if data is not None:
                file.writestr(name, data)
    return saved


def of_turn(name, value):
    return lambda content: content["turns"][0].update({name: value})


DAMAGE = {
    "picture missing": (None, {"pictures__1_png": None}, "no item named 'pictures/1.png'"),
    "no picture": (None, {"pictures__1_png": b"not a picture"}, "cannot identify"),
    "answer": (of_turn("answer", 5), {}, "do not go together"),
    "texts": (of_turn("texts", ["one"]), {}, "do not go together"),
    "count": (of_turn("pictures_up_to_here", 10**9), {}, "do not go together"),
    "tokens": (of_turn("tokens", [3]), {}, "were \\[3\\] tokens and would now be"),
    "tiling": (lambda content: content.update(tiling=False), {}, "tiling were changed"),
    "system": (lambda content: content.update(system=["a"]), {}, "do not go together"),
    "turns": (lambda content: content.pop("turns"), {}, "damaged, or no conversation"),
    "version": (lambda content: content.update(version=2), {}, "version 2 of the format; this package reads 1"),
    "format": (lambda content: content.update(format="x"), {}, "its format is 'x'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files(vl2, saved, case):
    change, members, message = DAMAGE[case]
    chat = new_chat(vl2)
    chat.ask("Still here?")
    with pytest.raises(ValueError, match=message):
        chat.load(changed(saved, change, **members))
    assert [turn.text for turn in chat.turns] == ["Still here?"]


def test_other_files(vl2, saved, tmp_path):
    chat, data = new_chat(vl2), bytearray(saved.read_bytes())
    for number, content in enumerate((b"", b"PK", data[: len(data) // 2], b"\x80\x04."), 1):
        file = tmp_path / f"{number}.zip"
        file.write_bytes(content)
        with pytest.raises(ValueError, match="damaged, or no conversation"):
            chat.load(file)
    data[200] ^= 255  # within the picture, whose checksum does not fit then
    saved.write_bytes(data)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        chat.load(saved)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        chat.load(tmp_path / "missing.zip")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        chat.load(tmp_path)


def test_a_small_file_that_unpacks_to_much_is_refused(vl2, saved, monkeypatch):
    chat = new_chat(vl2)
    with zipfile.ZipFile(saved, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.png", bytes(1_000_000))
    with zipfile.ZipFile(saved) as file, pytest.raises(ValueError, match="1000000 bytes; expected at most"):
        archive._member(file, "bomb.png")
    monkeypatch.setattr(archive, "LARGEST_JSON", 10)
    with pytest.raises(ValueError, match=r"conversation.json has \d+ bytes; expected at most 10"):
        chat.load(saved)


def test_pillows_limit_holds(vl2, saved, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="DecompressionBomb"):
        new_chat(vl2).load(saved)


def test_readable_file(vl2, saved, tmp_path):
    chat = new_chat(vl2).load(saved)
    file = chat.save(tmp_path / "talk.md")
    assert "**Question:** ![Picture 1](<talk-pictures/1.png>)\n\nWhat is this?" in file.read_text(encoding="utf-8")
