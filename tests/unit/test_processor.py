import copy
import json
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast

from conversations import ask, chat, text
from deepseek_vl_hf import DeepseekVLProcessor

PLACEHOLDER = "<image_placeholder>"
TOKENS = 576


@pytest.fixture(scope="module")
def picture(images):
    return Image.open(images / "tall.png")


def routes(processor):
    """The ids of the same prompt on every route that leads to ids."""
    conversation = ask(text("Hi"))
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    bos = processor.tokenizer.bos_token
    return {
        "processor.apply_chat_template": chat(processor, conversation)["input_ids"][0].tolist(),
        "processor on a rendered prompt": processor(text=prompt)["input_ids"][0].tolist(),
        "processor on plain text": processor(text=prompt.removeprefix(bos))["input_ids"][0].tolist(),
        "tokenizer.apply_chat_template": processor.tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"],
        "tokenizer on plain text": processor.tokenizer(prompt.removeprefix(bos))["input_ids"],
    }


def test_exactly_one_bos_on_every_route(processor):
    ids = routes(processor)
    bos = processor.tokenizer.bos_token_id
    assert {name: (row[0] == bos, row.count(bos)) for name, row in ids.items()} == dict.fromkeys(ids, (True, 1))
    assert len({tuple(row) for row in ids.values()}) == 1


def test_bos_in_a_mixed_batch(processor):
    bos = processor.tokenizer.bos_token_id
    batch = processor(text=["Hi", processor.tokenizer.bos_token + "Hi"])["input_ids"]
    assert torch.equal(batch[0], batch[1])
    assert (batch == bos).sum(-1).tolist() == [1, 1]


def test_bos_can_be_left_out(processor):
    ids = processor(text="Hi", add_special_tokens=False)["input_ids"][0]
    assert processor.tokenizer.bos_token_id not in ids


def test_bos_does_not_depend_on_the_tokenizers_template(converted, processor):
    """Tokenizer files of other converters carry no template for BOS."""
    tokenizer = AutoProcessor.from_pretrained(converted).tokenizer
    tokenizer.backend_tokenizer.post_processor = None
    bare = DeepseekVLProcessor(processor.image_processor, tokenizer)
    assert bare(text="Hi")["input_ids"].tolist() == processor(text="Hi")["input_ids"].tolist()


@pytest.mark.parametrize("typed", [PLACEHOLDER, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"])
def test_typed_control_strings_are_text(processor, images, typed):
    image = {"type": "image", "path": str(images / "tall.png")}
    inputs = chat(processor, ask(image, text(f"What is {typed}?")))
    ids = inputs["input_ids"][0]
    assert (ids == processor.image_token_id).sum() == TOKENS
    assert (ids == processor.tokenizer.bos_token_id).sum() == 1
    assert (ids == processor.tokenizer.eos_token_id).sum() == 0
    assert processor.decode(ids).endswith(f"What is {typed}?\n\nAssistant:")
    assert inputs["pixel_values"].shape[0] == 1


def test_typed_control_string_over_two_parts_is_text(processor):
    ids = chat(processor, ask(text("<image_place"), text("holder>")))["input_ids"][0]
    assert processor.image_token_id not in ids
    assert PLACEHOLDER in processor.decode(ids)


def test_control_strings_in_answers_and_system_messages_are_text(processor):
    conversation = [
        {"role": "system", "content": f"Never say {PLACEHOLDER}."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": f"{PLACEHOLDER}<｜end▁of▁sentence｜>"},
        {"role": "user", "content": "Hm"},
    ]
    ids = chat(processor, conversation)["input_ids"][0]
    assert processor.image_token_id not in ids
    assert (ids == processor.tokenizer.eos_token_id).sum() == 1


def test_role_names_are_ordinary_text(processor):
    """DeepSeek-VL has no role tokens: a typed role name gives the ids that the same characters always give."""
    ids = chat(processor, ask(text("User: Assistant: <|User|>")))["input_ids"][0].tolist()
    assert set(ids) & set(processor.tokenizer.all_special_ids) == {processor.tokenizer.bos_token_id}


def test_batch_with_different_numbers_of_images(processor, picture):
    image = {"type": "image", "image": picture}
    batch = chat(
        processor,
        [ask(image, text("a"), image), ask(image, text("b")), ask(text("c"))],
        processor_kwargs={"padding": True},
    )
    assert (batch["input_ids"] == processor.image_token_id).sum(-1).tolist() == [2 * TOKENS, TOKENS, 0]
    assert batch["pixel_values"].shape[0] == 3
    assert batch["attention_mask"][:, -1].tolist() == [1, 1, 1]
    assert (batch["attention_mask"][2] == 0).sum() == batch["input_ids"].shape[1] - len(
        chat(processor, ask(text("c")))["input_ids"][0]
    )
    assert batch["input_ids"][2, 0] == processor.tokenizer.pad_token_id


def test_text_only(processor):
    inputs = processor(text="Hi")
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].dtype == torch.int64


def test_nothing_at_all(processor):
    with pytest.raises(ValueError, match="neither text nor images"):
        processor()


def test_lists_on_request(processor):
    ids = processor(text=["a b c", "a"], return_tensors=None)["input_ids"]
    assert isinstance(ids[0], list)
    assert len(ids[0]) > len(ids[1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(processor, side):
    alone = processor(text="a b c", return_tensors=None)["input_ids"][0]
    batch = processor(text=["a b c", "a b c d e f"], padding=True, padding_side=side, pad_to_multiple_of=8)
    row, mask = batch["input_ids"][0].tolist(), batch["attention_mask"][0].tolist()
    assert len(row) % 8 == 0
    gap = len(row) - len(alone)
    pads, zeros, ones = [processor.tokenizer.pad_token_id] * gap, [0] * gap, [1] * len(alone)
    assert row == (pads + alone if side == "left" else alone + pads)
    assert mask == (zeros + ones if side == "left" else ones + zeros)


def test_padding_to_a_length(processor):
    assert processor(text="a", padding="max_length", max_length=20)["input_ids"].shape == (1, 20)


def test_padding_needs_a_pad_token(converted, processor):
    tokenizer = AutoProcessor.from_pretrained(converted).tokenizer
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="has no pad token"):
        DeepseekVLProcessor(processor.image_processor, tokenizer)(text="a", padding=True)


def test_truncation(processor):
    full = processor(text="a b c d e f", return_tensors=None)["input_ids"][0]
    cut = processor(text="a b c d e f", return_tensors=None, truncation=True, max_length=4)["input_ids"][0]
    assert cut == full[:4]


@pytest.mark.parametrize(("max_length", "lost"), [(300, TOKENS - 299), (1, TOKENS)])
def test_truncation_through_an_image(processor, picture, max_length, lost):
    with pytest.raises(ValueError, match=rf"to {max_length} tokens would remove {lost} of its 576 image places"):
        processor(text=f"{PLACEHOLDER}Hi", images=picture, truncation=True, max_length=max_length)


def test_long_prompts_are_warned_of(processor, caplog):
    with caplog.at_level(logging.WARNING):
        processor(text="a " * 20_000)
    assert "longer than the 16384 positions" in caplog.text


def test_other_outputs(processor, picture):
    inputs = processor(
        text=f"Hi {PLACEHOLDER}",
        images=picture,
        return_mm_token_type_ids=True,
        text_kwargs={"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_length": True},
    )
    length = inputs["input_ids"].shape[1]
    assert inputs["length"].tolist() == [length]
    assert inputs["mm_token_type_ids"].sum() == TOKENS
    assert inputs["offset_mapping"].shape == (1, length, 2)
    assert inputs["special_tokens_mask"].sum() == TOKENS + 1


def test_tokens_per_image_for_serving_engines(processor):
    data = processor._get_num_multimodal_tokens(image_sizes=[(100, 200), (3000, 20)])
    assert data.num_image_tokens == [TOKENS, TOKENS]
    assert data.num_image_patches == [1, 1]


def test_text_that_is_no_text(processor):
    with pytest.raises(TypeError, match="call apply_chat_template"):
        processor(text=[{"role": "user", "content": "Hi"}])


def test_tokenizer_without_the_image_token(converted):
    loaded = AutoProcessor.from_pretrained(converted)
    vocabulary = json.loads(loaded.tokenizer.backend_tokenizer.to_str())
    vocabulary["added_tokens"] = [token for token in vocabulary["added_tokens"] if token["content"] != PLACEHOLDER]
    vocabulary["post_processor"] = None
    bare = PreTrainedTokenizerFast(
        tokenizer_object=type(loaded.tokenizer.backend_tokenizer).from_str(json.dumps(vocabulary))
    )
    with pytest.raises(ValueError, match="has no token '<image_placeholder>'"):
        DeepseekVLProcessor(loaded.image_processor, bare)


def test_padding_side_of_the_tokenizers_file_is_obeyed(converted, processor):
    for side in ("left", "right"):
        tokenizer = AutoProcessor.from_pretrained(converted, padding_side=side).tokenizer
        assert DeepseekVLProcessor(processor.image_processor, tokenizer).tokenizer.padding_side == side


def test_save_and_load(processor, tmp_path, picture):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.chat_template == processor.chat_template
    first, second = (p(text=f"Hi {PLACEHOLDER}", images=picture) for p in (processor, loaded))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_loose_arguments_and_typed_control_strings(processor, images):
    """As people write it today; older transformers lose arguments on this route."""
    conversation = ask({"type": "image", "path": str(images / "tall.png")}, text(f"What is {PLACEHOLDER}?"))
    expected = chat(processor, conversation, processor_kwargs={"padding": True})
    found = chat(processor, conversation, padding=True, truncation=True, return_tensors="pt")
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert processor.decode(found["input_ids"][0]).endswith(f"What is {PLACEHOLDER}?\n\nAssistant:")


def test_encoding_typed_control_strings_leaves_the_tokenizer_as_it_was(processor):
    backend, eos = processor.tokenizer.backend_tokenizer, processor.tokenizer.eos_token
    before = backend.encode(f"a{eos}").ids
    chat(processor, ask(text(f"typed {eos}")))
    assert backend.encode(f"a{eos}").ids == before
    assert backend.encode_special_tokens is False


def test_typed_control_strings_with_threads(processor):
    """One thread's typed text must not turn another thread's control tokens into text, nor the reverse."""
    eos, eos_id = processor.tokenizer.eos_token, processor.tokenizer.eos_token_id
    typed = ask(text(f"typed {eos}"))

    def typed_ids(_):
        return (chat(processor, typed)["input_ids"] == eos_id).sum().item()

    def real_ids(_):
        return processor.tokenizer(f"real {eos}")["input_ids"].count(eos_id)

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(job, None) for _ in range(200) for job in (typed_ids, real_ids)]
        assert [result.result() for result in results] == [0, 1] * 200


def test_other_strings_of_a_message_are_typed_text_too(processor):
    template = "{{ messages[0].name }}: {{ messages[0].content }} {{ messages[0].tool_calls | tojson }}"
    message = [
        {"role": "user", "content": "Hi", "name": PLACEHOLDER, "tool_calls": [{"function": {"name": PLACEHOLDER}}]}
    ]
    ids = processor.apply_chat_template(message, template, tokenize=True, return_dict=True)["input_ids"]
    assert processor.image_token_id not in ids


def test_rows_of_tables_hold_none_for_unused_keys(processor, images):
    path = str(images / "tall.png")
    parts = [
        {"type": "image", "path": path, "image": None, "url": None, "text": None},
        {"type": "text", "text": "Hi", "path": None},
    ]
    filled = [{"role": "user", "content": parts, "images": None, "name": None}]
    plain = ask({"type": "image", "path": path}, text("Hi"))
    for key, value in chat(processor, plain).items():
        assert torch.equal(chat(processor, filled)[key], value)


def test_an_empty_final_answer_is_an_open_one(processor):
    messages = [*ask(text("Hi")), {"role": "assistant", "content": ""}]
    expected = processor.apply_chat_template(ask(text("Hi")), add_generation_prompt=True)
    assert processor.apply_chat_template(messages, continue_final_message=True) == expected


def test_left_truncation_keeps_bos(converted, processor):
    tokenizer = AutoProcessor.from_pretrained(converted).tokenizer
    tokenizer.truncation_side = "left"
    cut = DeepseekVLProcessor(processor.image_processor, tokenizer)
    full = cut(text="a b c d e f", return_tensors=None)["input_ids"][0]
    found = cut(text="a b c d e f", return_tensors=None, truncation=True, max_length=4)["input_ids"][0]
    assert found == [full[0], *full[-3:]]


def test_padding_side_without_a_word_from_anyone(converted, processor):
    """The original pads on the left. The tokenizer that was handed in stays as it is."""
    tokenizer = AutoProcessor.from_pretrained(converted).tokenizer
    del tokenizer.init_kwargs["padding_side"]
    tokenizer.padding_side = type(tokenizer).padding_side
    batch = DeepseekVLProcessor(processor.image_processor, tokenizer)(text=["a", "a b c"], padding=True)
    assert batch["attention_mask"][0, 0] == 0
    assert batch["attention_mask"][0, -1] == 1
    assert tokenizer.padding_side == "right"


def test_padding_to_a_length_that_nobody_names(converted, processor):
    tokenizer = AutoProcessor.from_pretrained(converted).tokenizer
    tokenizer.model_max_length = int(1e30)
    with pytest.raises(ValueError, match="Pass max_length"):
        DeepseekVLProcessor(processor.image_processor, tokenizer)(text="a", padding="max_length")


def test_an_unknown_padding_side(processor):
    with pytest.raises(ValueError, match="'top'"):
        processor(text="a", padding=True, padding_side="top")


@pytest.mark.parametrize("modality", ["videos", "audio"])
def test_other_modalities(processor, modality):
    with pytest.raises(ValueError, match=f"Found {modality}; DeepSeek-VL reads text and images"):
        processor(text="Hi", **{modality: [1]})


def test_an_empty_list_of_prompts(processor):
    with pytest.raises(TypeError, match="Found an empty list as text"):
        processor(text=[])


def test_numpy_on_request(processor, picture):
    inputs = processor(text=PLACEHOLDER, images=picture, return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in inputs.values())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"])
def test_copies(processor, picture, copied):
    expected = processor(text=f"Hi {PLACEHOLDER}", images=picture)
    for key, value in copied(processor)(text=f"Hi {PLACEHOLDER}", images=picture).items():
        assert torch.equal(value, expected[key])


def test_settings_given_at_loading(converted):
    loaded = AutoProcessor.from_pretrained(converted, num_image_tokens=4)
    assert (loaded(text=PLACEHOLDER, images=Image.new("RGB", (9, 9)))["input_ids"] == loaded.image_token_id).sum() == 4
