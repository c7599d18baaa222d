"""What only DeepSeek-OCR has: modes, tiles apart from the whole, prompts without roles, rules against repetition."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, NoRepeatNGramLogitsProcessor

from deepseek_vl_hf import DeepseekOCRConfig, DeepseekOCRForConditionalGeneration, NgramBan
from deepseek_vl_hf.models.deepseek_ocr.views import MODES, mode_of, num_image_tokens, num_tiles, tile_grid

LARGE = Image.effect_noise((1500, 700), 60).convert("RGB")


def ask(*parts):
    return [{"role": "user", "content": list(parts)}]


def picture(image):
    return {"type": "image", "image": image}


def text(words):
    return {"type": "text", "text": words}


def encode(processor, conversation, **options):
    return processor.apply_chat_template(conversation, tokenize=True, return_dict=True, **options)


@pytest.mark.parametrize("mode", MODES)
def test_modes(ocr, mode):
    """The places of a prompt, what the processor says of sizes, and what the model makes are as many."""
    inputs = encode(ocr.processor, ask(picture(LARGE), text("Free OCR.")), processor_kwargs={"mode": mode})
    chosen = MODES[mode]
    grid = (2, 1) if chosen.tile else (1, 1)
    assert inputs["tile_grids"].tolist() == [list(grid)]
    assert inputs["pixel_values"].shape == (1, 3, chosen.side, chosen.side)
    assert ("tile_pixel_values" in inputs) == bool(chosen.tile)
    expected = num_image_tokens(grid, chosen.side, chosen.tile)
    assert (inputs["input_ids"] == ocr.model.config.image_token_id).sum() == expected
    tokens, views = ocr.processor.num_tokens_of_sizes([(700, 1500)], mode=mode)
    assert (tokens, views) == ([expected], [1 + num_tiles(*grid)])
    images = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    with torch.no_grad():
        (features,) = ocr.model.get_image_features(**images).pooler_output
    assert len(features) == expected


@pytest.mark.parametrize(("mode", "tokens"), [("tiny", 73), ("small", 111), ("base", 273), ("large", 421)])
def test_published_numbers_of_tokens(mode, tokens):
    assert num_image_tokens((1, 1), MODES[mode].side, None) == tokens


@pytest.mark.parametrize("name", ["Gundam", "huge", None, 640])
def test_an_unknown_mode(ocr, name):
    with pytest.raises(ValueError, match=r"mode is .*; expected tiny, small, base, large, gundam, gundam-m"):
        mode_of(name)
    if isinstance(name, str):
        with pytest.raises(ValueError, match="expected tiny"):
            encode(ocr.processor, ask(picture(LARGE), text("a")), processor_kwargs={"mode": name})


def test_grids_are_the_closest_proportions():
    assert tile_grid(640, 640, 640) == (1, 1)
    assert tile_grid(641, 640, 640) == (2, 2)  # as close to 3 x 3, which wants more pixels
    assert tile_grid(9000, 100, 640) == (9, 1)
    assert tile_grid(100, 9000, 640) == (1, 9)


@torch.no_grad()
def test_several_pictures_stand_each_at_its_place(ocr):
    """One with tiles, one without: their embeddings are those that each has alone."""
    small = LARGE.crop((0, 0, 200, 300))
    both = encode(ocr.processor, ask(picture(small), text("and"), picture(LARGE), text("?")))
    assert both["tile_grids"].tolist() == [[1, 1], [2, 1]]
    alone = [encode(ocr.processor, ask(picture(each), text("?"))) for each in (small, LARGE)]
    features = [
        ocr.model.get_image_features(
            **{name: inputs[name] for name in inputs if name not in ("input_ids", "attention_mask")}
        ).pooler_output
        for inputs in (both, *alone)
    ]
    for found, expected in zip(features[0], [*features[1], *features[2]], strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    runs = (both["input_ids"][0] == ocr.model.config.image_token_id).int().diff().abs().sum()
    assert runs == 4
    assert ocr.model(**both).logits.shape[1] == both["input_ids"].shape[1]


def test_turned_pictures_are_upright_however_they_come(ocr):
    path = ocr.picture("turned.png")
    for given in (path, Image.open(path)):
        assert ocr.processor.image_processor([given], return_tensors="pt")["tile_grids"].tolist() == [[2, 3]]


def test_prompts_are_the_text_alone(ocr):
    template = ocr.processor.apply_chat_template
    begin, end = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    assert template(ask(picture(LARGE), text("Free OCR. "))) == f"{begin}<image>\nFree OCR."
    assert template(ask(picture(LARGE), text("\nFree OCR."))) == f"{begin}<image>\nFree OCR."
    assert template(ask(text("a")), add_generation_prompt=True) == f"{begin}a"
    answered = [*ask(picture(LARGE), text("a")), {"role": "assistant", "content": "b"}]
    assert template(answered) == f"{begin}<image>\nab{end}"
    with pytest.raises(ValueError, match=r"Unknown role 'system'.*no system prompt"):
        template([{"role": "system", "content": "x"}, *ask(text("a"))])


@pytest.mark.parametrize("count", [0, 1])
def test_other_numbers_of_pictures_than_of_places(ocr, count):
    with pytest.raises(ValueError, match="image"):
        ocr.processor(text="<image>\n<image>\nFree OCR.", images=[LARGE] * count or None)


def test_too_thin_pictures(ocr):
    with pytest.raises(ValueError, match="of which nothing is left when its longer edge is brought to 1024 pixels"):
        ocr.processor.image_processor([Image.new("RGB", (4096, 1))])
    one = ocr.processor.image_processor([Image.new("RGB", (1, 1))], return_tensors="pt")
    assert one["pixel_values"].shape == (1, 3, 1024, 1024)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile_grids": None}, "tile_grids is missing"),
        ({"tile_pixel_values": None}, r"tile_pixel_values holds 0 tiles, but tile_grids \[\(2, 1\)\] describe 2"),
        ({"tile_grids": torch.tensor([[3, 1]])}, "holds 2 tiles, .* describe 3"),
        ({"tile_grids": torch.tensor([[2, 1], [1, 1]])}, "pixel_values holds 1 images, tile_grids 2"),
        ({"tile_grids": torch.tensor([2, 1])}, r"tile_grids has the shape \[2\]"),
        ({"tile_grids": torch.tensor([[0, 1]])}, "at least one column and one row"),
        ({"pixel_values": torch.zeros(1, 3, 1000, 1000)}, "a side that is a multiple of 64"),
        ({"tile_pixel_values": torch.zeros(2, 3, 64, 128)}, r"tile_pixel_values has the shape \[2, 3, 64, 128\]"),
        ({"pixel_values": torch.zeros(0, 3, 64, 64)}, "pixel_values holds no image"),
        ({"pixel_values": None, "tile_grids": None}, r"Found tile_pixel_values alone|no images were passed"),
    ],
)
def test_image_inputs_that_do_not_fit_together(ocr, changes, message):
    inputs = encode(ocr.processor, ask(picture(LARGE), text("a")))
    for run in (ocr.model, ocr.model.generate):
        with pytest.raises(ValueError, match=message):
            run(**{**inputs, **changes})


def test_places_of_a_prompt_are_those_of_whole_pictures(ocr):
    inputs = encode(ocr.processor, ask(picture(LARGE), text("a")))
    inputs["input_ids"] = inputs["input_ids"][:, :-5]
    inputs["input_ids"][0, 1] = 5
    with pytest.raises(ValueError, match="image places"):
        ocr.model(input_ids=inputs["input_ids"], **{n: inputs[n] for n in inputs if "pixel" in n or "grid" in n})


def test_answers_are_read_as_the_original_reads_pages(ocr):
    generation = ocr.model.generation_config
    found = (generation.do_sample, generation.max_new_tokens, generation.no_repeat_ngram_size)
    assert found == (False, 8192, 20)


def test_copies_that_were_saved_again(ocr, tmp_path):
    """They have a model type of their own and a buffer more."""
    folder = shutil.copytree(ocr.original, tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "DeepseekOCR"}))
    tensors = {}
    for path in ocr.original.glob("*.safetensors"):
        tensors |= load_file(path)
    tensors["model.vision_model.embeddings.position_ids"] = torch.arange(257)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    assert type(model) is DeepseekOCRForConditionalGeneration
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in ocr.model.state_dict().items())
    assert type(AutoProcessor.from_pretrained(folder)) is type(ocr.processor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"downsample_channels": [512]}, r"downsample_channels is \[512\]; expected two whole numbers"),
        ({"downsample_channels": [512, 512]}, "hidden_size is 1024; expected 512, the last of downsample_channels"),
        ({"high_res_vision_config": {"patch_size": 14, "image_size": 896}}, "patch_size is 14; expected 16"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "siglip_vision_model.*clip_vision_model"),
    ],
)
def test_configs_that_no_model_can_have(changes, message):
    with pytest.raises(ValueError, match=message):
        DeepseekOCRConfig(**changes)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_ban_of_ngrams_is_that_of_transformers(size):
    torch.manual_seed(size)
    for length in range(1, 40):
        ids, scores = torch.randint(0, 4, (3, length)), torch.randn(3, 6)
        expected = NoRepeatNGramLogitsProcessor(size)(ids, scores.clone())
        assert torch.equal(NgramBan(size)(ids, scores), expected)


def test_a_window_forgets_and_allows():
    ids = torch.tensor([[9, 9, 1, 2, 3, 1, 2]])
    banned = NgramBan(3, window=5, prompt_length=2)(ids, torch.zeros(1, 10)) == -torch.inf
    assert banned.nonzero().tolist() == [[0, 3]]
    for options in ({"window": 4}, {"window": 5, "allowed": [3]}):
        assert not torch.isinf(NgramBan(3, prompt_length=2, **options)(ids, torch.zeros(1, 10))).any()
    repeated = torch.tensor([[1, 2, 3, 1, 2]])  # in the prompt alone
    assert not torch.isinf(NgramBan(3, window=5, prompt_length=5)(repeated, torch.zeros(1, 10))).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 3, "window": 2, "prompt_length": 0}, "window is 2; expected a whole number of at least"),
        ({"size": 3, "window": 9}, "a window without prompt_length"),
    ],
)
def test_bans_that_mean_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        NgramBan(**options)
