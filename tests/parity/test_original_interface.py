"""The original packages' calls, against the numbers that the original code produced by them."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from deepseek_vl_hf.original import DeepseekVLV2Processor, VLChatProcessor, load_pil_images
from family import IMAGES, VL2_FAMILIES, VL_FAMILIES


@pytest.fixture(scope="module", params=[*VL_FAMILIES, *VL2_FAMILIES])
def family(request, families):
    return families[request.param]


VL = pytest.mark.parametrize("family", VL_FAMILIES, indirect=True)
VL2 = pytest.mark.parametrize("family", VL2_FAMILIES, indirect=True)


@pytest.fixture(scope="module", params=["original", "converted"])
def opened(request, family):
    """Processor and model, as an original script opens them."""
    folder = getattr(family, request.param)
    processor_class = DeepseekVLV2Processor if family.is_vl2 else VLChatProcessor
    processor = processor_class.from_pretrained(folder, mask_prompt=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).cuda().eval()
    return processor, model


def prepared(processor, conversation, **kwargs):
    return processor(conversations=conversation, images=load_pil_images(conversation), **kwargs)


def padded_batch(processor, family):
    numbers = family.cases["batch_cases"]
    return processor.batchify(
        [prepared(processor, family.conversations[number], force_batchify=False) for number in numbers]
    )


def settings(processor):
    tokenizer = processor.tokenizer
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "max_new_tokens": 12,
        "do_sample": False,
        "use_cache": True,
    }


def check_answer(found, family, name):
    expected = family.expected[name].tolist()
    assert found == expected[: len(found)]
    assert len(found) == len(expected) or found[-1] == family.cases["eos_token_id"]


def cases(family):
    """Those that have an answer, of those whose pixels this Pillow makes."""
    found = [
        number
        for number in range(len(family.conversations))
        if f"case{number}.generated_ids" in family.expected and family.has_the_fixtures_pixels(number)
    ]
    assert found
    return found


def test_ids_and_text(family, opened):
    for number, conversation in enumerate(family.conversations):
        inputs = prepared(opened[0], conversation)
        assert inputs.input_ids[0].tolist() == family.expected[f"case{number}.input_ids"].tolist()
        if not family.is_vl2:
            assert inputs["sft_format"] == [family.cases["prompts"][number]]
        places = int(inputs.images_seq_mask.sum())
        assert places == inputs.input_ids[0].tolist().count(opened[1].config.image_token_id)


@VL2
def test_text_of_vl2_is_what_its_card_prints(family, opened):
    inputs = prepared(opened[0], family.conversations[0])
    expected = "<|User|>: <image>\n<|ref|>The giraffe at the back.<|/ref|>.\n\n<|Assistant|>:"
    assert inputs["sft_format"] == [expected]


@VL
def test_pixels_of_vl_are_the_original_bytes(family, opened):
    inputs = prepared(opened[0], family.conversations[0])
    found = (inputs.pixel_values[0] * 255).round().to(torch.uint8)
    assert torch.equal(found[:, :, ::32], family.expected["case0.pixels_uint8_rows"])
    assert torch.equal(found / 255, inputs.pixel_values[0])


def test_answers(family, opened):
    processor, model = opened
    for number in cases(family):
        inputs = prepared(processor, family.conversations[number], force_batchify=True).to(model.device)
        embeds = model.prepare_inputs_embeds(**inputs)
        for view in (model.language_model, model.language):
            found = view.generate(inputs_embeds=embeds, attention_mask=inputs.attention_mask, **settings(processor))
            check_answer(found[0].tolist(), family, f"case{number}.generated_ids")


def test_a_padded_batch(family, opened):
    processor, model = opened
    batch = padded_batch(processor, family)
    for name in ("input_ids", "attention_mask"):
        assert batch[name].int().tolist() == family.expected[f"batch.{name}"].tolist()
    found = model.language_model.generate(
        inputs_embeds=model.prepare_inputs_embeds(**batch),
        attention_mask=batch.attention_mask,
        **settings(processor),
    )
    assert found.tolist() == family.expected["batch.generated_ids"].tolist()


@VL2
@pytest.mark.parametrize("chunk_size", [512, 100])
def test_prefilling_in_chunks(family, opened, chunk_size):
    processor, model = opened
    for number in cases(family):
        inputs = prepared(processor, family.conversations[number])
        pictures = {name: inputs[name] for name in ("images", "images_seq_mask", "images_spatial_crop")}
        rest = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask, **pictures}
        embeds, cache = model.incremental_prefilling(chunk_size=chunk_size, **rest)
        assert cache.get_seq_length() == inputs.input_ids.shape[1] - 1
        found = model.generate(inputs_embeds=embeds, past_key_values=cache, **rest, **settings(processor))
        check_answer(found[0][inputs.input_ids.shape[1] :].tolist(), family, f"case{number}.generated_ids")
        with pytest.raises(ValueError, match="an answer was generated with it before"):
            model.generate(inputs_embeds=embeds, past_key_values=cache, **rest, **settings(processor))


@VL2
def test_a_padded_batch_in_chunks(family, opened):
    processor, model = opened
    batch = padded_batch(processor, family)
    mask, ids = batch.attention_mask, batch.input_ids
    embeds, cache = model.incremental_prefilling(
        inputs_embeds=model.prepare_inputs_embeds(**batch), attention_mask=mask, chunk_size=100
    )
    found = model.generate(
        inputs_embeds=embeds, input_ids=ids, attention_mask=mask, past_key_values=cache, **settings(processor)
    )
    assert found[:, ids.shape[1] :].tolist() == family.expected["batch.generated_ids"].tolist()


@VL2
def test_tiles_for_generate_and_forward(family, opened):
    processor, model = opened
    number = cases(family)[0]
    inputs = prepared(processor, family.conversations[number])
    pictures = {name: inputs[name] for name in ("images", "images_seq_mask", "images_spatial_crop")}
    found = model.generate(input_ids=inputs.input_ids, **pictures, **settings(processor))
    check_answer(found[0][inputs.input_ids.shape[1] :].tolist(), family, f"case{number}.generated_ids")
    with torch.no_grad():
        logits = model(inputs.input_ids, attention_mask=inputs.attention_mask, **pictures).logits[0]
    assert torch.equal(logits.argmax(-1).int(), family.expected[f"case{number}.argmax"])


@VL2
def test_answers_put_back_as_they_were_decoded(family, opened):
    processor = opened[0]
    turns = [("<|User|>", "Hi"), ("<|Assistant|>", "Hello"), ("<|User|>", "Bye"), ("<|Assistant|>", "")]
    plain = [{"role": role, "content": text} for role, text in turns]
    with_eos = copy.deepcopy(plain)
    with_eos[1]["content"] = f" Hello{processor.tokenizer.eos_token}"
    found, expected = (processor(conversations=each).input_ids for each in (with_eos, plain))
    assert found.tolist() == expected.tolist()


def test_places_without_pictures(family, opened):
    processor, model = opened
    inputs = prepared(processor, family.conversations[0])
    for name in ("images_emb_mask", "images_spatial_crop"):
        if name in inputs.keys():  # noqa: SIM118 - no dict
            inputs[name] = torch.zeros_like(inputs[name])
    with pytest.raises(ValueError, match="image places, but the images give 0 tokens"):
        model.prepare_inputs_embeds(**inputs)


@VL2
def test_labels(family, opened):
    processor = copy.copy(opened[0])
    for number, conversation in enumerate(family.conversations):
        found = prepared(processor, conversation).labels[0].tolist()
        assert found == family.expected[f"case{number}.labels"].tolist()
    finished = copy.deepcopy(family.cases["train_conversation"])
    for message in finished:
        message["images"] = [str(IMAGES / name) for name in message.get("images", [])]
    for processor.mask_prompt, name in ((True, "train.labels"), (False, "train.labels_prompt_kept")):
        inputs = prepared(processor, finished, inference_mode=False)
        assert inputs.input_ids[0].tolist() == family.expected["train.input_ids"].tolist()
        assert inputs.labels[0].tolist() == family.expected[name].tolist()
