"""DeepSeek-OCR, stage by stage against numbers that the original code produced, so that a failure says where.

float32 on a CPU. Measured noise on the machine where this was written: 1.1e-6 after SAM's convolutions (of which the
original's numbers are up to 0.9e-6 from float64, and these up to 1.0e-6), 1.2e-6 in the last logits, 9e-6 absolute in
the logsumexp. The smallest of the deliberate mistakes that were tried with the original, the tanh approximation of GELU
in SAM, changes the logits by 8e-5.
"""

import hashlib

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from deepseek_vl_hf.models.deepseek_ocr.views import tile_grid
from deepseek_vl_hf.models.repetition import NgramBan

FEATURES, LOGITS = 1.5e-6, 1e-5  # relative
LOGSUMEXP = 1e-3  # absolute
CASES = range(10)
TEXT_ALONE = 8
CASES_WITH_IMAGES = [case for case in CASES if case != TEXT_ALONE]
NGRAM_CASES = range(7)


@pytest.fixture(scope="module", params=["original", "converted"])
def opened(request, ocr):
    folder = getattr(ocr, request.param)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoProcessor.from_pretrained(folder), model


@pytest.fixture(scope="module")
def inputs(opened, ocr):
    return [encode(opened[0], *prompt) for prompt in ocr.prompts]


def encode(processor, conversation, processor_kwargs):
    return processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=processor_kwargs
    )


@pytest.mark.parametrize("case", CASES)
def test_prompt_text(opened, ocr, case):
    prompt = opened[0].apply_chat_template(ocr.prompts[case][0])
    assert prompt == f"<｜begin▁of▁sentence｜>{ocr.cases['cases'][case]['prompt_stripped']}"


@pytest.mark.parametrize("case", CASES)
def test_token_ids_and_grids(inputs, ocr, case):
    recorded = ocr.cases["cases"][case]
    assert inputs[case]["input_ids"][0].tolist() == ocr.expected[f"case{case}.input_ids"].tolist()
    assert (inputs[case]["input_ids"] == ocr.cases["image_token_id"]).sum() == recorded["image_tokens"]
    if case == TEXT_ALONE:
        assert "pixel_values" not in inputs[case]
    else:
        assert inputs[case]["tile_grids"].tolist() == [recorded["images_spatial_crop"]]
        assert len(inputs[case].get("tile_pixel_values", ())) == recorded["tiles"]


@pytest.mark.parametrize("case", CASES_WITH_IMAGES)
def test_eight_bit_pixels(inputs, ocr, case):
    ocr.skip_other_pixels(case)
    for view, name in (("global", "pixel_values"), ("tiles", "tile_pixel_values")):
        record = ocr.cases["pixels_sha256"][f"case{case}"].get(view)
        assert (record is None) == (name not in inputs[case])
        if record is None:
            continue
        pixels = (inputs[case][name] * 127.5 + 127.5).round().to(torch.uint8)
        assert list(pixels.shape) == record["shape"]
        assert hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest() == record["sha256"]


def test_grids(ocr):
    found = [[width, height, *tile_grid(width, height, 640)] for width, height, *_ in ocr.cases["tile_grids"]]
    assert len(found) == 60
    assert found == ocr.cases["tile_grids"]


@torch.no_grad()
@pytest.mark.parametrize("case", CASES_WITH_IMAGES)
def test_towers_and_projector(opened, inputs, ocr, relative, case):
    ocr.skip_other_pixels(case)
    model = opened[1].model
    for view, name in (("global", "pixel_values"), ("tiles", "tile_pixel_values")):
        if name not in inputs[case]:
            continue
        high = model.high_res_vision_proj(model.high_res_vision_model(inputs[case][name]).last_hidden_state)
        (low,) = model.vision_model(high)
        high = high.flatten(2).transpose(1, 2)
        projected = model.projector(torch.cat([low[:, 1:], high], -1))
        for sample, found in (
            ("sam_features_sample", high[:, ::9]),
            ("clip_class_token", low[:, 0]),
            ("clip_features_sample", low[:, 1:][:, ::9]),
            ("projected_sample", projected[:, ::9]),
        ):
            expected = ocr.expected[f"case{case}.{view}_{sample}"]
            assert relative(found.reshape(expected.shape), expected) <= FEATURES, (view, sample)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_embeddings(opened, inputs, ocr, relative, case):
    ocr.skip_other_pixels(case)
    ids, model = inputs[case]["input_ids"][0], opened[1]
    embeds = model.get_input_embeddings()(ids)
    if case != TEXT_ALONE:
        images = {name: inputs[case][name] for name in inputs[case] if name not in ("input_ids", "attention_mask")}
        embeds[ids == model.config.image_token_id] = torch.cat(model.get_image_features(**images).pooler_output)
    expected = ocr.expected[f"case{case}.inputs_embeds_sample"]
    assert relative(embeds[::7].reshape(expected.shape), expected) <= FEATURES


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits(opened, inputs, ocr, relative, case):
    ocr.skip_other_pixels(case)
    logits = opened[1](**inputs[case]).logits[0]
    expected = {name: ocr.expected[f"case{case}.{name}"].squeeze(0) for name in ("last_logits", "argmax", "logsumexp")}
    assert relative(logits[-4:].reshape(expected["last_logits"].shape), expected["last_logits"]) <= LOGITS
    assert (logits.logsumexp(-1) - expected["logsumexp"]).abs().max() <= LOGSUMEXP
    assert (logits.argmax(-1) == expected["argmax"]).float().mean() >= 0.998  # some are as close as 1e-5


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens(opened, inputs, ocr, case):
    ocr.skip_other_pixels(case)
    assert answer(opened[1], inputs[case], 12) == ocr.expected[f"case{case}.generated_ids"].flatten().tolist()


@pytest.mark.parametrize("number", NGRAM_CASES)
def test_repetition_rules(opened, inputs, ocr, number):
    record = ocr.cases["ngram"][number]
    ocr.skip_other_pixels(record["case"])
    prompt = inputs[record["case"]]
    if record["rule"] == "transformers":
        ban = NgramBan(record["parameters"])
    else:
        size, window, allowed = record["parameters"]
        ban = NgramBan(size, window, allowed, prompt["input_ids"].shape[1])
    plain = answer(opened[1], prompt, record["new_tokens"])
    found = answer(opened[1], prompt, record["new_tokens"], logits_processor=[ban])
    assert plain == ocr.expected[f"ngram{number}.plain_generated_ids"].flatten().tolist()
    assert found == ocr.expected[f"ngram{number}.generated_ids"].flatten().tolist()


def answer(model, inputs, new_tokens, **kwargs):
    """Greedy; `infer`'s ban of n-grams, the model's default, is for it to say."""
    rule = {"no_repeat_ngram_size": 0, **kwargs}
    generated = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, **rule)
    return generated[0, inputs["input_ids"].shape[1] :].tolist()


def test_a_padded_batch(opened, ocr):
    """Of pictures in several modes and of text alone, row by row as the original pads them."""
    processor, model = opened
    rows = [encode(processor, *ocr.prompts[case]) for case in ocr.cases["batch_cases"]]
    ids = processor.tokenizer.pad({"input_ids": [row["input_ids"][0] for row in rows]}, return_tensors="pt")
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(ids[name].int(), ocr.expected[f"batch.{name}"])
    encoded = [model.get_image_features(**images_of(row)) for row in rows if "pixel_values" in row]
    features = type(encoded[0])(pooler_output=[image for each in encoded for image in each.pooler_output])
    generated = model.generate(
        **ids, mm_encoder_outputs={"image": features}, max_new_tokens=12, do_sample=False, no_repeat_ngram_size=0
    )
    assert torch.equal(generated[:, ids["input_ids"].shape[1] :].int(), ocr.expected["batch.generated_ids"])


def images_of(inputs):
    return {name: inputs[name] for name in ("pixel_values", "tile_grids", "tile_pixel_values") if name in inputs}
