"""The small fixture models: what transformers promises of a model, and what goes wrong clearly."""

import logging
import re

import pytest
import torch
from transformers import DynamicCache

from deepseek_vl_hf import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
)
from deepseek_vl_hf.cpu import dtypes
from deepseek_vl_hf.models import checks

# Same weights, another order of operations: measured 9e-7 relative.
TOLERANCE = 1e-5


# Each test below runs for each family, with the family's own model and checkpoint.


@pytest.fixture(scope="module")
def converted(family):
    return family.converted


def pixels(inputs):
    """The image inputs alone."""
    return {name: value for name, value in inputs.items() if name.endswith(("pixel_values", "tile_grids"))}


def repeated(inputs, times):
    return {name: torch.cat([value] * times) for name, value in pixels(inputs).items()}


@pytest.fixture(scope="module")
def places(model, inputs):
    """Where the image is, in the one row."""
    return (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]


@pytest.fixture(scope="module")
def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@torch.no_grad()
@pytest.mark.parametrize("where", ["before the image", "inside the image", "last token"])
def test_cached_equals_uncached(model, inputs, logits, relative, places, where):
    """The tokens after the cut, read on top of a cache of those before it."""
    cuts = {"before the image": places[0] - 1, "inside the image": places[250], "last token": logits.shape[1] - 1}
    cut = int(cuts[where])
    features = model.get_image_features(**pixels(inputs)).pooler_output
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    embeds[0, places] = features[0]
    cache = DynamicCache(config=model.config)
    model(inputs_embeds=embeds[:, :cut], cache=cache)
    rest = model(inputs_embeds=embeds[:, cut:], cache=cache, attention_mask=inputs["attention_mask"])
    assert relative(rest.logits, logits[:, cut:]) <= TOLERANCE


@torch.no_grad()
def test_left_padded_equals_alone(family, model, relative):
    rows = [0, 1, 3]
    batch = family.batch(rows)
    # Positions count from the first real token, as in generate. (Left to themselves they count from the padding, which
    # is the same function but rounds the rotary angles differently: 1.5e-5.)
    position_ids = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    together = model(**batch, position_ids=position_ids).logits
    for row, case in enumerate(rows):
        expected = model(**family.inputs(case)).logits[0]
        assert relative(together[row, -len(expected) :], expected) <= TOLERANCE


@torch.no_grad()
def test_images_given_as_features_equal_pixels(model, inputs, logits):
    features = model.get_image_features(**pixels(inputs), return_dict=True)
    found = model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": features}).logits
    assert torch.equal(found, logits)


@torch.no_grad()
def test_image_places_are_found_in_embeddings(model, inputs, logits):
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    found = model(inputs_embeds=embeds, **pixels(inputs)).logits
    assert torch.equal(found, logits)


@torch.no_grad()
def test_image_features(model, inputs, places):
    two = repeated(inputs, 2)
    features = model.get_image_features(**two, return_dict=True, output_hidden_states=True)
    width, vision = model.config.text_config.hidden_size, model.config.vision_config
    assert [tuple(image.shape) for image in features.pooler_output] == [(len(places), width)] * 2
    patches = (vision.image_size // vision.patch_size) ** 2
    assert features.last_hidden_state.shape == (len(two["pixel_values"]), patches, vision.hidden_size)
    assert len(features.hidden_states) == model.config.vision_config.num_hidden_layers + 1
    assert isinstance(model.get_image_features(**two, return_dict=False), tuple)


@torch.no_grad()
def test_logits_to_keep(model, inputs, logits, relative):
    for kept, expected in ((3, logits[:, -3:]), (torch.tensor([5, 200]), logits[:, [5, 200]])):
        found = model(**inputs, logits_to_keep=kept).logits
        assert found.shape == expected.shape
        assert relative(found, expected) <= TOLERANCE


@torch.no_grad()
def test_outputs(model, inputs, places):
    output = model(**inputs, output_hidden_states=True)
    (image,) = output.image_hidden_states
    assert image.shape == (len(places), model.config.text_config.hidden_size)
    assert len(output.hidden_states) == model.config.text_config.num_hidden_layers + 1
    as_tuple = model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.logits)


@torch.no_grad()
def test_image_places_without_any_image(model, inputs, caplog):
    """forward takes any ids, as transformers promises, but says it; generate refuses."""
    checks.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        model(input_ids=inputs["input_ids"])
    assert "prompt has image places, but no images were passed" in caplog.text
    with pytest.raises(ValueError, match="prompt has image places, but no images were passed"):
        model.generate(input_ids=inputs["input_ids"])


@pytest.mark.parametrize(("missing", "images"), [(1, 1), (0, 2)])
def test_places_and_image_tokens_differ(family, model, inputs, places, missing, images):
    ids, tokens = inputs["input_ids"].clone(), len(places)
    ids[0, places[tokens - missing :]] = 5
    message = f"{tokens - missing} image places, but the images give {images * tokens} "
    if family.has_experts:  # whose images differ in length
        message = rf"\[{tokens - missing}\] image places, but there are {images} images of \[{tokens}"
    with pytest.raises(ValueError, match=message):
        model(input_ids=ids, **repeated(inputs, images))


def test_pixels_that_are_none(vl):
    with pytest.raises(TypeError, match="pixel_values is a list; expected a tensor"):
        vl.model.get_image_features([[1.0]])
    with pytest.raises(ValueError, match="pixel_values holds no image"):
        vl.model.get_image_features(torch.zeros(0, 3, 384, 384))


@pytest.mark.parametrize("shape", [(1, 3, 256, 256), (1, 4, 384, 384), (3, 384, 384), (1, 2, 3, 384, 384)])
def test_pixels_of_a_wrong_shape(vl, shape):
    with pytest.raises(ValueError, match=r"pixel_values has the shape .*expected \[images, 3, 384, 384\]"):
        vl.model.get_image_features(torch.zeros(shape))


def test_inputs_that_exclude_each_other(model, inputs):
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="both input_ids and inputs_embeds"):
        model(input_ids=inputs["input_ids"], inputs_embeds=embeds)
    with pytest.raises(ValueError, match="neither input_ids nor inputs_embeds"):
        model(attention_mask=inputs["attention_mask"])
    features = model.get_image_features(**pixels(inputs))
    with pytest.raises(ValueError, match="both pixel_values and mm_encoder_outputs"):
        model(**inputs, mm_encoder_outputs={"image": features})


def test_image_embeddings_take_the_type_of_the_text(model, inputs):
    features = model.get_image_features(**pixels(inputs))
    doubled = [image.double() for image in features.pooler_output]
    features.pooler_output = torch.stack(doubled) if isinstance(features.pooler_output, torch.Tensor) else doubled
    output = model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": features})
    assert output.logits.dtype == torch.float32


@pytest.mark.parametrize("tied", [False, True])
def test_head_is_tied_only_on_request(tied):
    small = small_config(tie_word_embeddings=tied)
    parts = {"text_config": small.text_config, "vision_config": small.vision_config, "tie_word_embeddings": tied}
    sam = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64}
    hybrid = DeepseekVLHybridConfig(**parts, high_res_vision_config={**sam, "global_attn_indexes": [0]})
    for model in (DeepseekVLForConditionalGeneration(small), DeepseekVLHybridForConditionalGeneration(hybrid)):
        assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied


def small_config(**kwargs):
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 32, "patch_size": 16, "vision_use_head": False, "hidden_act": "gelu"}
    text |= {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1}
    return DeepseekVLConfig(text_config=text, vision_config=vision, image_token_id=39, **kwargs)


def test_casting_keeps_rotary_tables_in_float32():
    model = DeepseekVLForConditionalGeneration(small_config())
    before = model.model.language_model.rotary_emb.inv_freq.clone()
    for cast in (model.to(torch.bfloat16), model.half(), model.model.to(torch.bfloat16)):
        assert next(cast.parameters()).dtype != torch.float32
        rotary = model.model.language_model.rotary_emb
        assert torch.equal(rotary.inv_freq, before)
        assert rotary.original_inv_freq.dtype == torch.float32


@pytest.mark.parametrize(
    ("native", "dtype", "words"),
    [
        (True, torch.float16, r"runs in float16 .* some ten times as long as in bfloat16\. .*dtype=torch.bfloat16"),
        (False, torch.float16, r"runs in float16 .* as long as in float32\. .*dtype=torch.float32, or call"),
        (False, torch.bfloat16, r"runs in bfloat16 .* six to eight times as long as in float32\."),
        (True, torch.bfloat16, None),
        (True, torch.float32, None),
        (False, torch.float32, None),
    ],
)
def test_types_that_the_processor_computes_slowly(caplog, monkeypatch, native, dtype, words):
    """Said once, with what is right on this processor."""
    monkeypatch.setattr(dtypes, "processor_has_bfloat16", lambda: native)
    checks.logger.warning_once.cache_clear()
    model = DeepseekVLForConditionalGeneration(small_config()).to(dtype)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(2):
            model(input_ids=torch.zeros(1, 3, dtype=torch.long))
    messages = [record.message for record in caplog.records if "no instructions for it" in record.message]
    assert len(messages) == (words is not None)
    assert words is None or re.search(words, messages[0])


def test_what_loaders_and_servers_read(family, model):
    assert model._supports_attention_backend
    tower = "ClipLayer" if family.is_ocr else "SiglipEncoderLayer"
    layers = {type(model.model.language_model.layers[0]).__name__, tower}
    assert layers <= model._no_split_modules
    assert model._no_split_modules <= {type(module).__name__ for module in model.modules()}  # accelerate looks for each
    assert model._tp_plan["lm_head"] == "colwise_gather_output"
