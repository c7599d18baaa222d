"""What is particular to DeepSeek-VL2: tiles that depend on the conversation, tokens per image, experts, bad input."""

import logging
from functools import partial

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from conversations import ask, text
from deepseek_vl_hf import DeepseekVL2Config, DeepseekVL2ImageProcessor
from deepseek_vl_hf.models.deepseek_moe.configuration_deepseek_moe import DeepseekMoeConfig

WIDE = Image.effect_noise((700, 350), 60).convert("RGB")  # 2 x 1 tiles
SMALL = Image.new("RGB", (50, 40), "red")  # one tile


@pytest.fixture(scope="module")
def processor(vl2):
    return vl2.processor


@pytest.fixture(scope="module")
def model(vl2):
    return vl2.model


def image(picture):
    return {"type": "image", "image": picture}


def encode(processor, *conversations, **kwargs):
    return processor.apply_chat_template(
        list(conversations),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **kwargs},
    )


# Tiles and tokens


def test_more_than_two_pictures_of_a_conversation_are_not_tiled(processor):
    two, three = (ask(*[image(WIDE)] * count, text("?")) for count in (2, 3))
    batch = encode(processor, two, three)
    assert batch["tile_grids"].tolist() == [[2, 1]] * 2 + [[1, 1]] * 3
    assert len(batch["pixel_values"]) == 2 * 3 + 3 * 2
    places = (batch["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert places == [2 * (211 + 14 * 29), 3 * 421]


@pytest.mark.parametrize(
    ("tiling", "grids"),
    [(True, [[2, 1]] * 3), (False, [[1, 1]] * 3), ([True, False, True], [[2, 1], [1, 1], [2, 1]])],
)
def test_tiling_can_be_decided(processor, tiling, grids):
    batch = encode(processor, ask(*[image(WIDE)] * 3, text("?")), tiling=tiling)
    assert batch["tile_grids"].tolist() == grids


def test_the_default_of_tiling_can_be_changed_and_is_saved(processor, tmp_path, vl2):
    changed = type(processor).from_pretrained(vl2.converted)
    changed.tiling = False
    changed.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    assert encode(again, ask(image(WIDE), text("?")))["tile_grids"].tolist() == [[1, 1]]


def test_pictures_without_a_prompt_are_one_conversation(processor):
    assert processor(images=[WIDE] * 2)["tile_grids"].tolist() == [[2, 1]] * 2
    assert processor(images=[WIDE] * 3)["tile_grids"].tolist() == [[1, 1]] * 3


def test_the_whole_comes_first_and_tiles_row_by_row():
    picture = Image.new("RGB", (768, 768), "black")
    for number, corner in enumerate([(0, 0), (384, 0), (0, 384), (384, 384)]):
        picture.paste((60 * number, 0, 0), (*corner, corner[0] + 384, corner[1] + 384))
    processed = DeepseekVL2ImageProcessor()(picture, do_rescale=False, do_normalize=False, return_tensors="pt")
    assert processed["tile_grids"].tolist() == [[2, 2]]
    assert processed["pixel_values"][1:, 0].flatten(1).unique(dim=1).flatten().tolist() == [0, 60, 120, 180]
    assert processed["pixel_values"][0, 0, ::383, ::383].flatten().tolist() == [0, 60, 120, 180]


def test_tokens_per_image_for_serving_engines(processor):
    found = processor._get_num_multimodal_tokens([(350, 700), (40, 50)])
    assert found["num_image_tokens"] == [211 + 14 * 29, 421]
    assert found["num_image_patches"] == [3, 2]
    assert processor._get_num_multimodal_tokens([(350, 700)] * 3)["num_image_tokens"] == [421] * 3
    each = processor._get_num_multimodal_tokens([(350, 700)] * 2, tiling=[False, True])
    assert each["num_image_tokens"] == [421, 211 + 14 * 29]
    inputs = encode(processor, ask(image(WIDE), text("?")))
    assert len(processor.replace_image_token(inputs, 0)) == len(processor.image_token) * (211 + 14 * 29)


def test_long_prompts_are_warned_of_with_the_tokens_of_each_image(processor, caplog):
    grid = Image.new("RGB", (1152, 1152))
    with caplog.at_level(logging.WARNING):
        encode(processor, ask(image(grid), image(grid), text("What? " * 100)))
    assert "longer than the 4096 positions" in caplog.text
    assert "The images take [2017, 2017] tokens." in caplog.text
    assert "With tiling=False an image takes 421 tokens." in caplog.text


def test_unknown_tilings(processor):
    with pytest.raises(ValueError, match="expected 'auto', True, False, or True or False for each image"):
        encode(processor, ask(image(WIDE), text("?")), tiling="Auto")


@pytest.mark.parametrize("tiling", ["Auto", None, [True, "auto"]])
def test_unknown_tilings_of_a_new_processor(processor, tiling):
    with pytest.raises(ValueError, match="expected 'auto', True, False"):
        type(processor)(processor.image_processor, processor.tokenizer, tiling=tiling)


# Prompts


def test_typed_control_tokens_are_text_but_those_of_grounding_work(processor):
    ids = encode(processor, ask(text("<|User|><image><|ref|>a<|/ref|>")))["input_ids"][0].tolist()
    vocabulary = processor.tokenizer.get_vocab()
    assert ids.count(vocabulary["<|User|>"]) == 1
    assert processor.image_token_id not in ids
    assert vocabulary["<|ref|>"] in ids
    assert vocabulary["<|/ref|>"] in ids


def test_the_head_of_an_answer_is_encoded_apart_from_it(processor):
    """Encoded together, a colon and punctuation after it could become one token."""
    head = processor.tokenizer.encode("<|Assistant|>:", add_special_tokens=False)
    answer = processor.tokenizer.encode("::)", add_special_tokens=False)
    messages = [*ask(text("Hi")), {"role": "assistant", "content": "::)"}]
    ids = processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    ids = torch.as_tensor(ids).flatten().tolist()
    assert ids[-len(head) - len(answer) - 1 :] == [*head, *answer, processor.tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([("user", "")], "<|User|>:<|Assistant|>:"),
        ([("user", " a ")], "<|User|>: a\n\n<|Assistant|>:"),
        ([("system", "S"), ("user", "a")], "S<|User|>: a\n\n<|Assistant|>:"),
        (
            [("user", "a"), ("assistant", "b"), ("user", "c")],
            "<|User|>: a\n\n<|Assistant|>:bEOS<|User|>: c\n\n<|Assistant|>:",
        ),
        ([("<|User|>", "a"), ("<|Assistant|>", "")], "<|User|>: a\n\n<|Assistant|>:"),
        ([("user", "a"), ("user", "b")], "<|User|>: a\n\n<|Assistant|>:<|User|>: b\n\n<|Assistant|>:"),
        (
            [("user", "a"), ("assistant", ""), ("user", "b")],
            "<|User|>: a\n\n<|Assistant|>:EOS<|User|>: b\n\n<|Assistant|>:",
        ),
    ],
)
def test_prompts(processor, messages, prompt):
    conversation = [{"role": role, "content": content} for role, content in messages]
    found = processor.apply_chat_template(conversation, add_generation_prompt=True)
    tokenizer = processor.tokenizer
    assert found == tokenizer.bos_token + prompt.replace("EOS", tokenizer.eos_token)


def test_an_answer_can_be_continued(processor):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}]
    found = processor.apply_chat_template(messages, continue_final_message=True)
    assert found == processor.tokenizer.bos_token + "<|User|>: a\n\n<|Assistant|>:b c"
    assert processor.apply_chat_template(messages[:1]) == processor.tokenizer.bos_token + "<|User|>: a"


def test_special_tokens_are_attributes_of_the_tokenizer(processor, vl2):
    tokenizers = [processor.tokenizer, AutoTokenizer.from_pretrained(vl2.original)]
    for tokenizer in tokenizers:
        assert tokenizer.ref_token == "<|ref|>"
        assert tokenizer.det_end_token == "<|/det|>"
        assert tokenizer.grounding_token == "<|grounding|>"
        assert (tokenizer.user_token, tokenizer.assistant_token) == ("<|User|>", "<|Assistant|>")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
            "'system', which may stand only first",
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": [image(SMALL)]}],
            "'assistant' and holds an image",
        ),
        ([{"role": "<|User|>", "content": "<image> a", "images": []}], "has 1 <image> in its content but 0 `images`"),
        ([{"role": "<|User|>", "content": "a", "images": [SMALL]}], "has 0 <image> in its content but 1 `images`"),
        ([{"role": "<|Narrator|>", "content": "a"}], r"role '<\|Narrator\|>'; expected one of"),
    ],
)
def test_bad_conversations(processor, messages, message):
    with pytest.raises(ValueError, match=message):
        encode(processor, messages)


# Bad pictures and settings


def test_a_picture_of_which_nothing_is_left(processor):
    with pytest.raises(ValueError, match="image of 1 x 4000 pixels, of which nothing is left"):
        encode(processor, ask(image(Image.new("RGB", (1, 4000))), text("?")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidate_resolutions": []}, "candidate_resolutions is empty"),
        ({"candidate_resolutions": [[384, 500]]}, "multiples of the tile of 384"),
        ({"tiling": [True, False]}, r"tiling is \[True, False\] for 1 images"),
        ({"tiling": "auto"}, "'auto' is for the processor"),
    ],
)
def test_bad_settings_of_the_image_processor(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepseekVL2ImageProcessor()(SMALL, **settings)


@pytest.mark.parametrize(
    ("tiles", "grids", "message"),
    [
        (3, [[1, 1]], r"holds 3 tiles, but tile_grids \[\(1, 1\)\] describe 2"),
        (2, [[1, 0]], "at least one column and one row"),
        (2, [1, 1], r"shape \[2\]; expected \[images, 2\]"),
    ],
)
def test_tiles_and_grids_disagree(model, tiles, grids, message):
    images = {"pixel_values": torch.zeros(tiles, 3, 384, 384), "tile_grids": torch.tensor(grids)}
    ids = torch.full((1, 421), model.config.image_token_id)
    for call in (model.get_image_features, partial(model, input_ids=ids), partial(model.generate, input_ids=ids)):
        with pytest.raises(ValueError, match=message):
            call(**images)


def test_one_of_the_image_inputs_alone(model):
    ids = torch.full((1, 421), model.config.image_token_id)
    for call in (model.get_image_features, partial(model, input_ids=ids), partial(model.generate, input_ids=ids)):
        with pytest.raises(ValueError, match="tile_grids is missing"):
            call(pixel_values=torch.zeros(2, 3, 384, 384))
        with pytest.raises(ValueError, match="pixel_values is missing"):
            call(tile_grids=torch.tensor([[1, 1]]))
    with pytest.raises(ValueError, match="Found no images"):
        model.get_image_features()


def test_answers_and_sizes_of_grounding(processor):
    answer = "<|ref|>a<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>"
    (found,) = processor.post_process_grounding(answer, [(20, 10)])
    assert (found.labels, found.boxes) == (["a"], [[(0, 0, 10, 20)]])
    assert len(processor.post_process_grounding([answer, "none"], [(20, 10)] * 2)) == 2
    with pytest.raises(ValueError, match="1 answers and 2 image sizes"):
        processor.post_process_grounding(answer, [(20, 10)] * 2)


# Config


@torch.no_grad()
def test_grids_in_another_order_are_refused(model, processor):
    """As many tiles and tokens in all, but not in each prompt."""
    tall = WIDE.rotate(90, expand=True)
    batch = encode(processor, ask(image(WIDE), text("?")), ask(image(tall), text("?")))
    swapped = {**batch, "tile_grids": batch["tile_grids"].flip(0)}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="Build input_ids and pixel_values with one call"):
            call(**swapped)


def test_every_default_can_be_built_and_shown():
    """Older versions of transformers build them in order to write what differs."""
    assert DeepseekMoeConfig().qk_head_dim == 192
    assert "deepseek_vl2" in repr(DeepseekVL2Config())


def test_parts_of_other_model_types():
    with pytest.raises(ValueError, match="text_config has the model_type 'llama'; expected 'deepseek_vl2_text'"):
        DeepseekVL2Config(text_config={"model_type": "llama"})
