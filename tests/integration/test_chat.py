"""Conversations that keep what was computed answer as if everything were computed again."""

import itertools
import logging
import threading
import time

import pytest
import torch
from transformers import AutoModelForImageTextToText

from deepseek_vl_hf import Chat
from deepseek_vl_hf.chat.streaming import AnswerText
from family import CONTRACT_FAMILIES, IMAGES, VL2_FAMILIES
from forked import python

GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 8}
EVERY_FAMILY = tuple(dict.fromkeys((*CONTRACT_FAMILIES, *VL2_FAMILIES)))
PICTURES = [str(path) for path in sorted(IMAGES.iterdir())]


@pytest.fixture
def chat(family):
    return Chat(family.model, family.processor, **GREEDY)


def again(chat, **processor_kwargs):
    """The answer to a chat's last question, everything computed from scratch with the library's own means."""
    conversation = []
    for turn in chat.turns:
        content = [{"type": "text", "text": turn.texts[0]}]
        for picture, text in zip(turn.pictures, turn.texts[1:], strict=True):
            content += [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        conversation.append({"role": "user", "content": content})
        conversation.append({"role": "assistant", "content": turn.answer})
    inputs = chat.processor.apply_chat_template(
        conversation[:-1],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=processor_kwargs,
    )
    ids = chat.model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    text = AnswerText(chat.processor)
    for token in ids.tolist():
        text.add(token)
    return text.whole, inputs["input_ids"].shape[1]


def check(chat, **processor_kwargs):
    """Whether the last answer and the number of prompt tokens are those of computing everything again."""
    assert (chat.turns[-1].answer, chat.figures.prompt_tokens) == again(chat, **processor_kwargs)


@pytest.mark.parametrize("family", EVERY_FAMILY, indirect=True, scope="module")
def test_every_turn_is_answered_as_from_scratch(chat):
    questions = (("What is this?", PICTURES[:1]), ("And the colour?", []), ("And here?", PICTURES[1:2]), ("Why?", []))
    lengths = []
    for text, pictures in questions:
        chat.ask(text, pictures)
        check(chat)
        lengths.append((chat.figures.prompt_tokens, chat.figures.kept_tokens))
    kept_of = [kept / before for (before, _), (_, kept) in itertools.pairwise(lengths)]
    assert min(kept_of) > 0.9, lengths  # all but what an answer's tokens become when they are encoded again


@pytest.mark.parametrize("family", EVERY_FAMILY, indirect=True, scope="module")
def test_ids_are_those_of_the_processor(family):
    """With pictures that were processed before, typed control tokens, and an open answer."""
    for number, conversation in enumerate(family.conversations):
        inputs = family.inputs(number)
        lengths = family.processor.num_tokens_of_images(inputs) if "pixel_values" in inputs else []
        assert family.processor.encode_conversation(conversation, lengths) == inputs["input_ids"][0].tolist()
    typed = [{"role": "user", "content": f"{family.processor.image_token} {family.processor.tokenizer.eos_token}"}]
    inputs = family.processor.apply_chat_template(typed, tokenize=True, add_generation_prompt=True, return_dict=True)
    assert family.processor.encode_conversation(typed, []) == inputs["input_ids"][0].tolist()
    with pytest.raises(ValueError, match="has 0 pictures, but 1 lengths"):
        family.processor.encode_conversation(typed, [5])


def test_pictures_between_texts(chat):
    chat.ask(["This is A: ", ", and this B: ", ". Which is larger?"], PICTURES[:2])
    check(chat)
    chat.ask("")
    check(chat)


def test_a_picture_is_encoded_once(chat, monkeypatch):
    calls = []
    encode = chat.model.get_image_features
    monkeypatch.setattr(
        chat.model, "get_image_features", lambda *args, **kwargs: calls.append(1) or encode(*args, **kwargs)
    )
    chat.ask("a", PICTURES[:2])
    chat.ask("b")
    chat.undo()
    chat.ask("c")
    assert len(calls) == 2
    assert chat.figures.kept_tokens > 0.9 * chat.figures.prompt_tokens - 20


def test_an_interrupted_answer(chat):
    """What there is of it stays in the conversation."""
    chat.ask("What is this?", PICTURES[:1])
    for number, _ in enumerate(chat.stream("Tell me more.")):
        if number == 1:
            break
    assert chat.figures.ended == "stopped"
    assert chat.figures.new_tokens < GREEDY["max_new_tokens"]
    assert chat.turns[-1].text == "Tell me more."
    chat.ask("Go on.")
    check(chat)


def test_stopped_from_another_thread(chat):
    stream = chat.stream("What is this?", PICTURES[:1], max_new_tokens=400)
    next(stream)
    thread = threading.Thread(target=chat.stop)
    thread.start()
    rest = list(stream)
    thread.join()
    assert len(rest) < 300
    assert chat.figures.ended == "stopped"
    chat.ask("And?")
    check(chat)


def test_stopped_while_the_prompt_is_read(chat):
    """Of the answer there is nothing, so the question is taken back."""
    chat.ask("a", PICTURES[:1])
    chat.progress = lambda what, done, total: chat.stop() if what == "prompt" else None
    assert chat.ask("b" * 4000) == ""
    assert [turn.text for turn in chat.turns] == ["a"]
    chat.progress = lambda *_: None
    chat.ask("c")
    check(chat)


def test_a_withdrawn_and_an_edited_turn(chat):
    chat.ask("a", PICTURES[:1])
    chat.ask("b", PICTURES[1:2])
    withdrawn = chat.undo()
    assert (withdrawn.text, len(withdrawn.pictures)) == ("b", 1)
    chat.ask("c")
    check(chat)
    # The same places, another picture.
    chat.undo()
    chat.undo()
    chat.ask("a", PICTURES[1:2])
    check(chat)
    chat.new()
    assert (chat.undo(), chat.turns, chat.figures) == (None, [], None)
    chat.ask("d")
    check(chat)


def test_the_cache_grows_by_new_tokens_alone(chat):
    chat.ask("What is this?", PICTURES[:1])
    before = chat._memory.cache.get_seq_length()
    chat.ask("And?")
    assert chat._memory.cache.get_seq_length() == len(chat._memory)
    assert chat._memory.cache.get_seq_length() - before < 60


def test_a_full_context_drops_the_oldest_turns(family, caplog, monkeypatch):
    untiled = {"tiling": False} if family.is_vl2 else {}
    chat = Chat(family.model, family.processor, **untiled, **GREEDY)
    chat.ask("first", PICTURES[1:2] if family.is_ocr else PICTURES[:1])  # one without tiles
    one = chat.figures.prompt_tokens
    monkeypatch.setattr(Chat, "context", property(lambda self: 2 * one + 120))
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        for text in ("second", "third", "fourth"):
            chat.ask(text, PICTURES[1:2] if text != "third" else [])
            check(chat, **untiled)
    finally:
        logger.removeHandler(caplog.handler)
    assert "its oldest turns (2) are left out" in caplog.text
    assert chat.turns[0].text != "first"
    assert chat.turns[-1].text == "fourth"
    told = []
    chat.progress = lambda *step: told.append(step)
    with pytest.raises(ValueError, match=r"takes \d+ tokens, \d+ of them for its pictures; \d+ fit, .* trained for"):
        chat.ask("long" * 4 * one, PICTURES[:1])
    assert chat.turns[-1].text == "fourth"
    assert told == []  # it is known before a picture is encoded
    chat.progress = lambda *_: None
    chat.ask("short")
    check(chat, **untiled)


def test_thousands_of_pictures_are_not_opened(chat):
    """Whatever their sizes, they do not fit."""
    with pytest.raises(ValueError, match=r"takes at least \d+ tokens for its 3000 pictures; \d+ fit"):
        chat.ask("a", ["missing.png"] * 3000)
    assert chat.turns == []


@pytest.mark.parametrize("family", EVERY_FAMILY, indirect=True, scope="module")
def test_lengths_are_known_before_pictures_are_encoded(chat):
    for pictures in (PICTURES[:1], PICTURES[1:2], [], PICTURES[:1]):  # of VL2, the third is not tiled
        chat.ask("a", pictures)
        turn = chat.turns[-1]
        assert turn.lengths == [len(image) for image in turn.images]
    assert turn.lengths


def test_tiling_is_decided_when_a_picture_arrives(vl2):
    chat = Chat(vl2.model, vl2.processor, **GREEDY)
    for number, text in enumerate(("one", "two", "three")):
        chat.ask(text, [PICTURES[number]])
    check(chat, tiling=[True, True, False])
    chat.new()
    chat.ask("three at once", PICTURES[:3])
    check(chat)  # none is tiled, as in the original
    untiled = Chat(vl2.model, vl2.processor, tiling=False, **GREEDY)
    untiled.ask("one", PICTURES[:1])
    check(untiled, tiling=False)


def test_tiling_is_for_vl2(hybrid):
    chat = Chat(hybrid.model, hybrid.processor, tiling=True, **GREEDY)
    with pytest.raises(ValueError, match="tiling=True, which is for DeepSeek-VL2"):
        chat.ask("a", PICTURES[:1])


def test_progress_and_figures(chat):
    told = []
    chat.progress = lambda *step: told.append(step)
    chat.ask("What is this?", PICTURES[:2])
    assert told[:2] == [("pictures", 0, 2), ("pictures", 1, 2)]
    prompts = [step for step in told if step[0] == "prompt"]
    assert prompts
    assert prompts[0] == ("prompt", 0, chat.figures.prompt_tokens)
    assert 0 < chat.figures.seconds_to_first_token <= chat.figures.seconds
    assert chat.figures.tokens_per_second > 0


def test_one_answer_at_a_time(chat):
    stream = chat.stream("a", PICTURES[:1])
    next(stream)
    with pytest.raises(RuntimeError, match="still being given"):
        chat.ask("b")
    stream.close()
    chat.ask("b")
    check(chat)


def test_an_error_while_generating_leaves_a_chat_that_works(chat, monkeypatch):
    chat.ask("a", PICTURES[:1])
    with monkeypatch.context() as patch:
        patch.setattr(chat.model.model.language_model, "forward", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            chat.ask("b")
    assert [turn.text for turn in chat.turns] == ["a"]
    chat.ask("c")
    check(chat)


def fail_at(monkeypatch, chat, number):
    """Lets the model fail at a forward pass."""
    calls = []
    forward = chat.model.lm_head.forward

    def failing(*args):
        calls.append(1)
        if len(calls) == number:
            raise RuntimeError("out of memory")
        return forward(*args)

    monkeypatch.setattr(chat.model.lm_head, "forward", failing)


def test_an_error_in_the_middle_of_an_answer(chat, monkeypatch):
    """The turn is taken back."""
    chat.ask("a", PICTURES[:1])
    with monkeypatch.context() as patch:
        fail_at(patch, chat, 4)
        with pytest.raises(RuntimeError, match="out of memory"):
            chat.ask("b")
    assert [turn.text for turn in chat.turns] == ["a"]
    assert chat.figures is None
    chat.ask("c")
    check(chat)


def test_an_error_behind_what_was_read(chat, monkeypatch):
    """The loop is left before the thread fails: nobody sees the error, but the cache is not trusted."""
    chat.ask("a", PICTURES[:1])
    with monkeypatch.context() as patch:
        fail_at(patch, chat, 7)
        stream = chat.stream("b")
        next(stream)
        while any(thread.name == "deepseek_vl_hf.generate" for thread in threading.enumerate()):
            time.sleep(0.01)
        stream.close()
    assert [turn.text for turn in chat.turns] == ["a"]
    chat.ask("c")
    check(chat)


def test_control_c_while_the_thread_ends(chat, monkeypatch):
    """The second one is heeded when the cache is at rest."""
    chat.ask("a", PICTURES[:1])
    stream = chat.stream("b", max_new_tokens=400)
    next(stream)
    join, interrupts = threading.Thread.join, iter([KeyboardInterrupt(), KeyboardInterrupt()])

    def interrupted(thread, *args):
        error = next(interrupts, None)
        if error is not None:
            raise error
        join(thread, *args)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.close()
    assert not chat.busy
    assert not any(thread.name == "deepseek_vl_hf.generate" for thread in threading.enumerate())
    chat.ask("c")
    check(chat)


def test_nothing_is_withdrawn_while_an_answer_is_given(chat):
    stream = chat.stream("a", PICTURES[:1])
    next(stream)
    for change in (chat.undo, chat.new):
        with pytest.raises(RuntimeError, match="still being given"):
            change()
    stream.close()
    assert chat.undo().text == "a"


def test_figures_are_of_what_was_read(chat):
    """What the thread made beyond it is no part of the answer."""
    stream = chat.stream("a", PICTURES[:1], max_new_tokens=6)
    piece = next(stream)
    while any(thread.name == "deepseek_vl_hf.generate" for thread in threading.enumerate()):
        time.sleep(0.01)
    stream.close()
    assert chat.turns[-1].answer == piece.strip()
    assert chat.figures.ended == "stopped"
    assert chat.figures.new_tokens < 6
    chat.ask("b")
    check(chat)


def test_a_stream_that_is_never_read_to_its_end(vl):
    """The program ends as usual: a thread within torch would be torn down in the middle."""
    program = f"""
from deepseek_vl_hf import Chat
stream = Chat.from_pretrained({str(vl.original)!r}).stream("a", max_new_tokens=5000)
next(stream)
"""
    result = python("-c", program)
    assert result.returncode == 0, result.stderr


def test_system_prompts(family):
    if family.is_ocr:
        with pytest.raises(ValueError, match=r"Unknown role 'system'.*DeepSeek-OCR has no system prompt"):
            Chat(family.model, family.processor, system="Be brief.").ask("a")
        return
    chat = Chat(family.model, family.processor, system="Be brief.", **GREEDY)
    chat.ask("a")
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    inputs = family.processor.apply_chat_template(prompt, tokenize=True, add_generation_prompt=True, return_dict=True)
    assert chat.figures.prompt_tokens == inputs["input_ids"].shape[1]


def test_with_4_bit_weights(family):
    chat = Chat.from_pretrained(family.original, int4=True, device="cpu", **GREEDY)
    assert any(hasattr(parameter, "qdata") for parameter in chat.model.parameters())
    chat.ask("What is this?", PICTURES[:1])
    chat.ask("And?")
    assert len(chat.turns) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(family):
    model = AutoModelForImageTextToText.from_pretrained(family.converted, dtype=torch.float32, device_map="cuda")
    chat = Chat(model, family.processor, **GREEDY)
    assert chat.ask("What is this?", PICTURES[:1])
    chat.ask("And?")
    check(chat)
