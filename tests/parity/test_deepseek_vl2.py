"""DeepSeek-VL2, stage by stage against numbers that the original code produced, so that a failure says where.

float32 on a CPU. Measured noise on the machine where this was written: 1.3e-7 in the tower, 1.9e-7 after the
projector, 1.1e-6 in the logits. The original's choices of experts are not among its numbers, but the logits tell: a
single expert of a single token exchanged for the next best, where the two are closest, changes their logsumexp by 1e-4.
Other deliberate mistakes: one expert fewer per token 3e-3, weights of the chosen ones divided by their sum 2e-3, exact
GELU in the tower or tanh in the projector 3e-4; RMSNorm eps 1e-5 instead of 1e-6 7e-5 (last logits).
"""

import hashlib

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from deepseek_vl_hf import prepack_weights
from family import VL2_FAMILIES

TOLERANCE = 1e-5
CASES = range(6)
CASES_WITH_IMAGES = (0, 1, 2, 3, 5)


@pytest.fixture(scope="module", params=VL2_FAMILIES)
def vl2(request, families):
    return families[request.param]


@pytest.fixture(scope="module", params=["original", "converted"])
def opened(request, vl2):
    folder = getattr(vl2, request.param)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoProcessor.from_pretrained(folder), model


@pytest.fixture(scope="module")
def inputs(opened, vl2):
    processor, _ = opened
    return [
        processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        for conversation in vl2.conversations
    ]


@pytest.mark.parametrize("case", CASES)
def test_prompt_text(opened, vl2, case):
    prompt = opened[0].apply_chat_template(vl2.conversations[case], add_generation_prompt=True)
    assert prompt.replace("<image>", "") == vl2.cases["prompts"][case]


@pytest.mark.parametrize("case", CASES)
def test_token_ids_and_grids(inputs, vl2, case):
    assert inputs[case]["input_ids"][0].tolist() == vl2.expected[f"case{case}.input_ids"].tolist()
    if case in CASES_WITH_IMAGES:
        assert inputs[case]["tile_grids"].tolist() == vl2.cases["tile_grids"][case]
    else:
        assert "pixel_values" not in inputs[case]


@pytest.mark.parametrize("case", CASES_WITH_IMAGES)
def test_eight_bit_pixels(inputs, vl2, case):
    vl2.skip_other_pixels(case)
    pixels = (inputs[case]["pixel_values"] * 127.5 + 127.5).round().to(torch.uint8)
    record = vl2.cases["pixels_sha256"][f"case{case}"]
    assert list(pixels.shape) == record["shape"]
    assert torch.equal(pixels[:, :, ::32], vl2.expected[f"case{case}.pixels_uint8_rows"])
    assert hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest() == record["sha256"]


@torch.no_grad()
@pytest.mark.parametrize("case", CASES_WITH_IMAGES)
def test_tower_projector_and_embeddings(opened, inputs, vl2, relative, case):
    vl2.skip_other_pixels(case)
    _, model = opened
    pixels, grids = inputs[case]["pixel_values"], inputs[case]["tile_grids"]
    features = model.get_image_features(pixels, grids)
    tower = features.last_hidden_state
    assert relative(tower[:, ::24], vl2.expected[f"case{case}.vision_features_sample"]) <= TOLERANCE
    projected = model.model.projector(tower)[:, ::24]
    assert relative(projected, vl2.expected[f"case{case}.projected_sample"]) <= TOLERANCE
    embeds = model.get_input_embeddings()(inputs[case]["input_ids"])[0]
    embeds[inputs[case]["input_ids"][0] == model.config.image_token_id] = torch.cat(features.pooler_output)
    assert relative(embeds[::7], vl2.expected[f"case{case}.inputs_embeds_sample"]) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits(opened, inputs, vl2, relative, case):
    vl2.skip_other_pixels(case)
    check_logits(opened[1](**inputs[case]).logits[0], vl2, case, relative)


def check_logits(logits, vl2, case, relative):
    """Last four rows, and for every position the most likely token and the normalizer, which covers the whole row."""
    assert relative(logits[-4:], vl2.expected[f"case{case}.last_logits"]) <= TOLERANCE
    assert torch.equal(logits.argmax(-1).int(), vl2.expected[f"case{case}.argmax"])
    assert relative(logits.logsumexp(-1), vl2.expected[f"case{case}.logsumexp"]) <= TOLERANCE


@torch.no_grad()
def test_logits_of_packed_weights(vl2, relative):
    model = AutoModelForImageTextToText.from_pretrained(vl2.converted, dtype=torch.float32).eval()
    prepack_weights(model)
    for case in filter(vl2.has_the_fixtures_pixels, CASES):
        inputs = vl2.inputs(case)
        check_logits(model(**inputs).logits[0], vl2, case, relative)


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens(opened, inputs, vl2, case):
    generated = opened[1].generate(**inputs[case], max_new_tokens=12, do_sample=False)
    found = generated[0, inputs[case]["input_ids"].shape[1] :].tolist()
    assert found == vl2.expected[f"case{case}.generated_ids"].tolist()[: len(found)]
    assert len(found) == 12 or found[-1] == vl2.cases["eos_token_id"]


def test_a_padded_batch(opened, vl2):
    processor, model = opened
    batch = processor.apply_chat_template(
        [vl2.conversations[case] for case in vl2.cases["batch_cases"]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name].int(), vl2.expected[f"batch.{name}"])
    generated = model.generate(**batch, max_new_tokens=12, do_sample=False)[:, batch["input_ids"].shape[1] :]
    assert torch.equal(generated.int(), vl2.expected["batch.generated_ids"])
