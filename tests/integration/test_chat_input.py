"""What a conversation is asked with: sampling, pictures, models, and what is refused."""

import socket

import pytest
import torch
from PIL import Image

from deepseek_vl_hf import Chat, DeepseekOCRProcessor
from deepseek_vl_hf.chat.history import Turn, fit
from deepseek_vl_hf.chat.sampling import options_of
from deepseek_vl_hf.chat.streaming import AnswerText
from family import IMAGES

PICTURES = [str(path) for path in sorted(IMAGES.iterdir())]


@pytest.fixture
def chat(family):
    return Chat(family.model, family.processor, do_sample=False, repetition_penalty=1.0, max_new_tokens=8)


def test_sampling(chat):
    """The original's, unless the checkpoint, the chat or the call says otherwise."""
    if isinstance(chat.processor, DeepseekOCRProcessor):
        greedy = {"max_new_tokens": 8192, "do_sample": False, "repetition_penalty": 1.0}
        assert options_of(chat.model, chat.processor, {}) == greedy
        return
    assert options_of(chat.model, chat.processor, {}) == {
        "max_new_tokens": 512,
        "do_sample": True,
        "temperature": 0.2,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
    }
    chat.sampling = {"max_new_tokens": 3}
    assert options_of(chat.model, chat.processor, chat.sampling, {"do_sample": False}) == {
        "max_new_tokens": 3,
        "do_sample": False,
        "repetition_penalty": 1.1,
    }
    torch.manual_seed(0)
    chat.ask("a", PICTURES[:1], temperature=0.9)
    assert chat.figures.new_tokens <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 1e-300}, "temperature is 1e-300; expected a finite number from 1e-06 to 100"),
        ({"temperature": float("inf")}, "temperature is inf; expected"),
        ({"temperature": float("nan")}, "temperature is nan; expected"),
        ({"do_sample": True, "temperature": 0}, "temperature is 0; expected .* pass do_sample=False"),
        ({"top_p": 2}, "top_p is 2; expected a finite number above 0 to 1"),
        ({"top_p": 0}, "top_p is 0; expected"),
        ({"top_p": float("nan")}, "top_p is nan; expected"),
        ({"top_p": True}, "top_p is True; expected"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; expected a finite number from 0.01 to 100"),
        ({"repetition_penalty": "1"}, "repetition_penalty is '1'; expected"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected a whole number from 1 up"),
        ({"max_new_tokens": "x"}, "max_new_tokens is 'x'; expected"),
    ],
    ids=str,
)
def test_sampling_that_means_nothing(vl, options, message):
    chat = Chat(vl.model, vl.processor)
    with pytest.raises(ValueError, match=message):
        chat.ask("a", **options)
    assert chat.turns == []
    assert not chat.busy


def test_a_whole_number_as_penalty(vl):
    chat = Chat(vl.model, vl.processor, max_new_tokens=2)
    chat.ask("a", repetition_penalty=2)
    assert chat.figures.new_tokens == 2


def test_the_penalty_looks_at_the_answer_alone(family):
    """The original hands embeddings to generate, which then knows no prompt."""
    chat = Chat(family.model, family.processor, do_sample=False, max_new_tokens=6, repetition_penalty=1.3)
    chat.ask("What is this?", PICTURES[:1])
    inputs = family.processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "image", "path": PICTURES[0]}, {"type": "text", "text": "What is this?"}],
            }
        ],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    names = [name for name in inputs if name not in ("input_ids", "attention_mask")]
    with torch.no_grad():
        features = family.model.get_image_features(**{name: inputs[name] for name in names}, return_dict=True)
        embeds = family.model.get_input_embeddings()(inputs["input_ids"])
        places = (inputs["input_ids"] == family.model.config.image_token_id)[..., None]
        pooled = features.pooler_output
        pooled = pooled if isinstance(pooled, torch.Tensor) else torch.cat(list(pooled))
        embeds = embeds.masked_scatter(places, pooled.reshape(-1, embeds.shape[-1]))
        ids = family.model.generate(
            inputs_embeds=embeds, do_sample=False, max_new_tokens=6, repetition_penalty=1.3, attention_mask=None
        )
    text = AnswerText(family.processor)
    for token in ids[0].tolist():
        text.add(token)
    assert chat.turns[-1].answer == text.whole


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 3},
        {"streamer": object()},
        {"cache_implementation": "static"},
        {"generation_config": object()},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_are_not_for_conversations(chat, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: not for conversations"):
        chat.ask("a", PICTURES[:1], **options)
    assert chat.turns == []


def test_options_of_generate(chat):
    called = []

    def count(input_ids, scores):
        called.append(1)
        return scores

    chat.ask("a", PICTURES[:1], logits_processor=[count], repetition_penalty=1.2, num_beams=1, max_new_tokens=None)
    assert called
    first = chat.turns[-1].answer
    chat.undo()
    chat.ask("a", PICTURES[:1], stop_strings=[first[:3]], repetition_penalty=1.2)
    assert len(chat.turns[-1].answer) < len(first)
    chat.undo()
    chat.ask("a", eos_token_id=[5, *range(100)])
    assert chat.figures.ended in ("eos", "length")


def test_one_picture_by_itself(chat):
    tensor = torch.randint(256, (3, 40, 60), dtype=torch.uint8)
    for picture in (PICTURES[0], tensor, Image.open(PICTURES[0])):
        chat.ask("a", picture)
        assert len(chat.turns[-1].pictures) == 1


@pytest.mark.parametrize("bad", ["missing.png", "http://127.0.0.1:9/a.png", __file__])
def test_pictures_that_cannot_be_read(chat, bad):
    with pytest.raises(ValueError, match="Image 1 of 2"):
        chat.stream("a", [PICTURES[0], bad])
    assert chat.turns == []


def test_a_server_that_does_not_answer(vl, monkeypatch):
    """It takes the connection and is silent."""
    monkeypatch.setattr("deepseek_vl_hf.pictures.links.SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/picture.png"
        with pytest.raises(ValueError, match=r"No image could be read from .*Timeout"):
            Chat(vl.model, vl.processor).ask("a", url)


def test_a_huge_picture(chat, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="DecompressionBomb"):
        chat.ask("a", [PICTURES[0]])


def test_from_pretrained(tmp_path):
    chat = Chat.from_pretrained(dtype=torch.float32)
    assert chat.ask("\nHow many shapes are there?", ["examples/pictures/shapes.png"]) == "4"
    assert chat.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match=r"The device 'cuda:99' cannot be used here \(.*\)\. Name one"):
        Chat.from_pretrained(device="cuda:99")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        Chat.from_pretrained(tmp_path / "missing")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="is a llama; expected one of deepseek_vl, deepseek_vl_hybrid, deepseek_vl2"):
        Chat.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="expected a DeepSeek-VL model with its head"):
        Chat(torch.nn.Linear(1, 1), None)
    with pytest.raises(TypeError, match=r"Found \[5\] as text"):
        chat.ask([5])
    with pytest.raises(ValueError, match="Found 3 texts around 1 pictures; expected 2"):
        chat.ask(["a", "b", "c"], PICTURES[:1])


def test_grounding_tokens_stay_visible(vl2):
    text = AnswerText(vl2.processor)
    tokenizer = vl2.processor.tokenizer
    ids = [*tokenizer.encode("<|ref|>a<|/ref|>", add_special_tokens=False), tokenizer.eos_token_id]
    assert "".join(text.add(token) for token in ids) == "<|ref|>a<|/ref|>"


def test_unicode_arrives_whole(chat):
    text = AnswerText(chat.processor)
    ids = chat.processor.tokenizer.encode(" 这是 🙂!", add_special_tokens=False)
    pieces = [text.add(token) for token in ids]
    assert "".join(pieces) == text.whole == "这是 🙂!"
    assert not any("\ufffd" in piece for piece in pieces)


class Letters:
    """A processor whose tokens are the letters of a conversation."""

    def encode_conversation(self, messages, lengths):
        return "".join(part["text"] for message in messages for part in message["content"])


@pytest.mark.parametrize(
    ("lengths", "dropped"),
    [
        ([10, 10, 10], 0),
        ([40, 30, 30], 1),  # 60 and the answer's 10 leave a quarter free
        ([10, 10, 10, 70], 1),  # nothing does, so as few as it takes
        ([50, 95], 1),  # not even the room for an answer is to be had
    ],
)
def test_how_many_turns_are_dropped(lengths, dropped):
    turns = [Turn(["x" * length]) for length in lengths]
    ids, found = fit(Letters(), None, turns, 100, 10)
    assert found == dropped
    assert len(ids) == sum(lengths[dropped:])
