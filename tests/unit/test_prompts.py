import pytest

from deepseek_vl_hf.conversation.prompts import break_controls, control_tokens, encode_prompts, unused_mark

ORDINARY = [
    "",
    "Hello, world!",
    "User: 描述这张图片 33\n\nAssistant:",
    "<｜begin▁of▁sentence｜>User: <image_placeholder><image_placeholder> is\t a cat.<｜end▁of▁sentence｜>User:",
    "  leading and trailing  ",
    "émigré 🐈 \r\n\n\n x",
]


@pytest.fixture(scope="module")
def tokenizer(processor):
    return processor.tokenizer


@pytest.fixture(scope="module")
def controls(tokenizer):
    return control_tokens(tokenizer, "<image_placeholder>")


def test_control_tokens(controls):
    assert sorted(controls) == sorted(["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<image_placeholder>"])


def test_ordinary_prompts_get_the_tokenizers_ids(tokenizer, controls):
    encoded = encode_prompts(tokenizer, ORDINARY, controls)
    for prompt, result in zip(ORDINARY, encoded, strict=True):
        assert result.input_ids == tokenizer(prompt, add_special_tokens=False)["input_ids"]


def test_offsets_are_the_tokenizers(tokenizer, controls):
    prompt = ORDINARY[3]
    expected = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert encode_prompts(tokenizer, [prompt], controls)[0].offsets == expected


def test_marked_controls_are_text(tokenizer, controls):
    typed = "a<image_placeholder>b<｜end▁of▁sentence｜>"
    mark = unused_mark([typed])
    broken = break_controls(typed, controls, mark)
    (result,) = encode_prompts(tokenizer, ["<image_placeholder>" + broken], controls, mark)
    place = tokenizer.convert_tokens_to_ids("<image_placeholder>")
    assert result.input_ids.count(place) == 1
    assert tokenizer.eos_token_id not in result.input_ids
    assert tokenizer.decode(result.input_ids) == "<image_placeholder>" + typed
    # Offsets count the characters of the marked prompt.
    assert result.offsets[0] == (0, 19)
    assert result.offsets[-1][1] == 19 + len(broken)


def test_decoding_gives_back_the_text(tokenizer, controls):
    for prompt, result in zip(ORDINARY, encode_prompts(tokenizer, ORDINARY, controls), strict=True):
        assert tokenizer.decode(result.input_ids, clean_up_tokenization_spaces=False) == prompt


def test_the_mark_is_a_character_that_nobody_typed():
    assert unused_mark([]) == "\ue000"
    assert unused_mark(["a\ue000", "\ue002"]) == "\ue001"


def test_no_mark_left():
    with pytest.raises(ValueError, match="each of the 256 private-use characters"):
        unused_mark(["".join(map(chr, range(0xE000, 0xE100)))])
