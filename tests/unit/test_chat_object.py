"""What `Chat` says of itself, what notebooks show, and which arguments it names."""

import html.parser
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoConfig

from deepseek_vl_command.arguments import parse
from deepseek_vl_hf import Chat, nano_path
from deepseek_vl_hf.chat import showing
from deepseek_vl_hf.chat.history import Turn
from deepseek_vl_hf.checkpoints.layouts.files import base_folder, named_folder
from deepseek_vl_hf.cli.models import load_chat
from deepseek_vl_hf.nano.folder import packaged
from deepseek_vl_hf.pictures.drawing import draw_boxes
from family import IMAGES

GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 4}
PICTURE = str(min(IMAGES.iterdir()))


@pytest.fixture
def chat(vl2):
    return Chat(vl2.model, vl2.processor, **GREEDY)


class Parsed(html.parser.HTMLParser):
    """Elements and texts of a document."""

    def __init__(self, document):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_what_a_chat_says_of_itself(chat):
    assert repr(chat) == "Chat(DeepseekVL2ForConditionalGeneration, float32 on cpu, 0 turns)"
    first = chat("What is this?", images=[PICTURE])
    assert repr(chat) == "Chat(DeepseekVL2ForConditionalGeneration, float32 on cpu, 1 turn)"
    with Image.open(PICTURE) as picture:
        size = f"{picture.width} x {picture.height}"
    assert repr(chat.turns) == f"[Turn(['', 'What is this?'], pictures: {size}, answer={first!r})]"
    assert first == Chat(chat.model, chat.processor, **GREEDY).ask("What is this?", [PICTURE])


def test_a_notebook_shows_turns_with_small_pictures(chat):
    answer = chat("What is this?", PICTURE)
    parsed = Parsed(chat._repr_html_())
    (picture,) = [attributes for tag, attributes in parsed.elements if tag == "img"]
    assert picture["src"].startswith("data:image/jpeg;base64,")
    assert len(picture["src"]) < 20_000
    assert "What is this?" in parsed.texts
    assert "".join(parsed.texts).endswith(f"Model{answer}")


def test_what_was_written_is_no_markup():
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)> & \"'"
    turn = Turn(["<b>", evil], [Image.new("RGB", (4, 4))], answer=f"</div>{evil}")
    parsed = Parsed(showing.html_of("<i>summary</i>", [turn]))
    assert {tag for tag, _ in parsed.elements} == {"div", "img"}
    assert all(attributes["src"].startswith("data:") for tag, attributes in parsed.elements if tag == "img")
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert "".join(parsed.texts) == f"<i>summary</i>You<b>{evil}Model</div>{evil}"
    assert "mathjax_ignore" in parsed.elements[0][1]["class"]


def test_what_a_notebook_shows_is_bounded():
    large = Image.effect_noise((3000, 2000), 100).convert("RGB")
    turns = [Turn([f"number {number}", *["x" * 10_000] * 2], [large] * 2, answer="y") for number in range(40)]
    document = showing.html_of("summary", turns)
    assert len(document) < 1_000_000
    assert len(re.findall("<img", document)) == showing.MOST_PICTURES
    assert document.count("[picture, 3000 x 2000 pixels]") == 2 * showing.MOST_TURNS - showing.MOST_PICTURES
    assert "number 19" not in document
    assert "the first 20 turns are not shown" in document
    assert "(6000 more characters)" in document


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda chat: chat.ask("a", image=PICTURE), r"no argument image=. Did you mean images=\?"),
        (lambda chat: chat("a", picture=PICTURE), r"no argument picture=. Did you mean images=\?"),
        (lambda chat: chat.stream("a", imagse=PICTURE), r"no argument imagse=. Did you mean images=\?"),
        (lambda chat: chat.ask("a", temprature=1), r"Did you mean temperature=\?"),
        (lambda chat: chat.ask("a", max_tokens=1), r"Did you mean max_new_tokens=\?"),
        (lambda chat: chat.ask("a", zzz=1), "no argument zzz=. Others are arguments of model.generate"),
        (lambda chat: Chat(chat.model, chat.processor, sistem="b"), r"Did you mean system=\?"),
    ],
    ids=["image", "picture", "typing", "sampling", "tokens", "nothing", "chat"],
)
def test_wrong_arguments_are_named(chat, call, message):
    with pytest.raises(TypeError, match=message):
        call(chat)
    assert chat.turns == []


def test_boxes_are_drawn_on_a_picture_that_displays():
    drawn = draw_boxes(PICTURE, ["it"], [[(1, 1, 20, 20)]])
    assert isinstance(drawn, Image.Image)
    assert drawn._repr_png_()[:4] == b"\x89PNG"


def test_nano_names_the_packages_model_to_people_alone(vl, tmp_path, monkeypatch):
    """A path, and what a checkpoint's file names, is a folder or a repository, whatever it is called."""
    monkeypatch.chdir(tmp_path)
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text('{"base_model_name_or_path": "nano"}')
    for name in (Path("nano"), "./nano"):
        with pytest.raises(FileNotFoundError, match="nano is no folder"):
            Chat.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match="holds adapters for nano: nano is no folder"):
        Chat.from_pretrained(adapters)
    shutil.copytree(vl.converted, "nano")
    for name in (Path("nano"), "./nano"):
        assert Chat.from_pretrained(name).model.config.model_type == "deepseek_vl"
    assert base_folder(adapters) == Path("nano")
    assert named_folder("nano") == nano_path()
    assert named_folder("nano-vl2") == nano_path("nano-vl2") != nano_path()
    names = ("nano", nano_path(), "nano-vl2", nano_path("nano-vl2"), Path("nano"), "./nano")
    assert [*map(packaged, names)] == ["nano", "nano", "nano-vl2", "nano-vl2", None, None]
    with pytest.raises(ValueError, match="No model 'nano-vl3' comes with the package; expected nano or nano-vl2"):
        nano_path("nano-vl3")
    words = parse(["describe", "a.png", "--model", "./nano"])
    assert load_chat(words).model.config.model_type == "deepseek_vl"
    assert AutoConfig.from_pretrained("nano").model_type == "deepseek_vl"
