"""The small fixture models: what transformers promises of a model, and what goes wrong clearly."""

import json
import logging
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModel, AutoModelForImageTextToText, DynamicCache

from deepseek_vl_hf import DeepseekVLConfig, DeepseekVLForConditionalGeneration, compat
from deepseek_vl_hf.models import checks, generation

# Same weights, another order of operations: measured 9e-7 relative.
TOLERANCE = 1e-5


# Each test below runs for each family, with the family's own model and checkpoint.


@pytest.fixture(scope="module")
def model(family):
    return family.model


@pytest.fixture(scope="module")
def converted(family):
    return family.converted


@pytest.fixture(scope="module")
def inputs(family):
    """Text before an image: 660 tokens with one image."""
    return family.inputs(2)


def pixels(inputs):
    """The image inputs alone."""
    return {name: value for name, value in inputs.items() if "pixel_values" in name}


def repeated(inputs, times):
    return {name: value.repeat(times, 1, 1, 1) for name, value in pixels(inputs).items()}


@pytest.fixture(scope="module")
def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@torch.no_grad()
@pytest.mark.parametrize("cut", [40, 300, 659], ids=["before the image", "inside the image", "last token"])
def test_cached_equals_uncached(model, inputs, logits, relative, cut):
    """The tokens behind the cut, read on top of a cache of those before it."""
    features = model.get_image_features(**pixels(inputs)).pooler_output
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    places = inputs["input_ids"] == model.config.image_token_id
    embeds[places] = features[0]
    cache = DynamicCache(config=model.config)
    model(inputs_embeds=embeds[:, :cut], past_key_values=cache)
    rest = model(inputs_embeds=embeds[:, cut:], past_key_values=cache, attention_mask=inputs["attention_mask"])
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
def test_image_features(model, inputs):
    two = repeated(inputs, 2)
    features = model.get_image_features(**two, return_dict=True, output_hidden_states=True)
    assert features.pooler_output.shape == (2, 576, model.config.text_config.hidden_size)
    assert features.last_hidden_state.shape == (2, 576, model.config.vision_config.hidden_size)
    assert len(features.hidden_states) == model.config.vision_config.num_hidden_layers + 1
    assert isinstance(model.get_image_features(**two, return_dict=False), tuple)


@torch.no_grad()
def test_logits_to_keep(model, inputs, logits, relative):
    for kept, expected in ((3, logits[:, -3:]), (torch.tensor([5, 600]), logits[:, [5, 600]])):
        found = model(**inputs, logits_to_keep=kept).logits
        assert found.shape == expected.shape
        assert relative(found, expected) <= TOLERANCE


def test_labels(model, inputs, logits):
    labels = inputs["input_ids"].clone()
    labels[:, :100] = -100
    labels[labels == model.config.image_token_id] = -100
    expected = functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
    assert torch.allclose(model(**inputs, labels=labels).loss, expected, rtol=1e-6)


@torch.no_grad()
def test_outputs(model, inputs):
    output = model(**inputs, output_hidden_states=True)
    assert output.image_hidden_states.shape == (1, 576, model.config.text_config.hidden_size)
    assert len(output.hidden_states) == model.config.text_config.num_hidden_layers + 1
    as_tuple = model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.logits)


@pytest.mark.parametrize("call", ["__call__", "generate"])
def test_image_places_without_any_image(model, inputs, call):
    with pytest.raises(ValueError, match="prompt has image places, but no images were passed"):
        getattr(model, call)(input_ids=inputs["input_ids"])


@pytest.mark.parametrize(
    ("places", "images", "message"),
    [(575, 1, "575 image places, but the images give 576 tokens"), (576, 2, "576 image places.*give 1152 tokens")],
)
def test_places_and_image_tokens_differ(model, inputs, places, images, message):
    ids = inputs["input_ids"].clone()
    ids[0, (ids[0] == model.config.image_token_id).nonzero()[places:]] = 5
    with pytest.raises(ValueError, match=message):
        model(input_ids=ids, **repeated(inputs, images))


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


@torch.no_grad()
def test_beams_and_several_answers_see_their_prompts_images(family, model):
    """With one candidate per step every beam and every answer is the greedy one, if it sees the right images."""
    batch = family.batch([0, 1])  # one and two images
    start = batch["input_ids"].shape[1]
    greedy = model.generate(**batch, max_new_tokens=6, do_sample=False)[:, start:]
    several = model.generate(**batch, max_new_tokens=6, do_sample=True, top_k=1, num_return_sequences=2)[:, start:]
    assert several.tolist() == greedy.repeat_interleave(2, 0).tolist()
    beams = model.generate(**batch, max_new_tokens=6, num_beams=2, do_sample=False)[:, start:]
    for row, case in enumerate([0, 1]):
        alone = family.inputs(case)
        length = alone["input_ids"].shape[1]
        assert beams[row].tolist() == model.generate(**alone, max_new_tokens=6, num_beams=2)[0, length:].tolist()


@torch.no_grad()
def test_pictures_are_encoded_once_per_generation(family, model, inputs, monkeypatch):
    calls = []
    encode = type(model.model).get_image_features
    monkeypatch.setattr(
        type(model.model), "get_image_features", lambda self, *a, **k: calls.append(1) or encode(self, *a, **k)
    )
    model.generate(**inputs, max_new_tokens=4, num_beams=3, num_return_sequences=2)
    assert calls == [1]


@torch.no_grad()
def test_generation_without_a_cache(model, inputs):
    with_cache = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False, use_cache=False), with_cache)
    assert model(**inputs, use_cache=False).past_key_values is None
    assert model(**inputs, use_cache=True).past_key_values is not None


@torch.no_grad()
def test_generated_image_tokens_are_no_image_places(model):
    ids = torch.tensor([[600, 5, model.config.image_token_id, 6]])
    model.generate(input_ids=ids, max_new_tokens=3, use_cache=False)


def test_chunked_prefill_reads_the_images_or_says_that_it_cannot(model, inputs):
    plain = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    if compat.CHUNKED_PREFILL_READS_IMAGES:
        chunked = model.generate(**inputs, max_new_tokens=3, do_sample=False, prefill_chunk_size=100)
        assert torch.equal(chunked, plain)
    else:
        with pytest.raises(ValueError, match=r"Install transformers 5\.23 or newer, or leave prefill_chunk_size out"):
            model.generate(**inputs, max_new_tokens=3, prefill_chunk_size=100)


def test_long_prompts_are_warned_of(model, caplog, monkeypatch):
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 5)
    generation.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        model.generate(input_ids=torch.full((1, 7), 5), max_new_tokens=1)
    assert "prompt of 7 tokens is longer than the 5 positions (max_position_embeddings)" in caplog.text


@torch.no_grad()
def test_forward_compiles_without_a_graph_break(model, inputs, logits, relative):
    compiled = torch.compile(model.forward, fullgraph=True, backend="eager")
    assert relative(compiled(**inputs).logits, logits) <= TOLERANCE
    torch.compiler.reset()


def test_the_loss_can_be_averaged_over_a_whole_batch(model, inputs):
    labels = inputs["input_ids"].clone()
    count = (labels[:, 1:] != -100).sum()
    mean = model(**inputs, labels=labels).loss
    summed = model(**inputs, labels=labels, num_items_in_batch=count * 2).loss
    assert torch.allclose(summed * 2, mean, rtol=1e-5)


def test_gradient_checkpointing_keeps_the_gradients(family, inputs, relative):
    model = family.load().train()

    def gradients():
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    assert {name.split(".")[1] for name in plain} >= {"vision_model", "aligner", "language_model", "weight"}
    getattr(
        model, "activation_checkpointing_enable", model.gradient_checkpointing_enable
    )()  # renamed in newer versions
    towers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert len(towers) >= model.config.vision_config.num_hidden_layers + model.config.text_config.num_hidden_layers
    for name, gradient in gradients().items():
        assert relative(gradient, plain[name]) <= 1e-4 or plain[name].abs().max() < 1e-6, name


def test_image_embeddings_take_the_type_of_the_text(model, inputs):
    features = model.get_image_features(**pixels(inputs))
    features.pooler_output = features.pooler_output.double()
    output = model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": features})
    assert output.logits.dtype == torch.float32


def weight_names(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


def test_save_and_load_bit_for_bit(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert weight_names(tmp_path) == set(model.state_dict())
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.fixture
def long_names(converted, tmp_path):
    """The checkpoint under the names of the published `deepseek-community` files."""
    for file in converted.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    prefix = "model.vision_model."
    renamed = {name.replace(prefix, prefix + "vision_model."): tensor for name, tensor in tensors.items()}
    assert set(renamed) != set(tensors)
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_published_long_names_are_read_and_short_ones_written(long_names, model, tmp_path):
    loaded, info = AutoModelForImageTextToText.from_pretrained(
        long_names, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    loaded.save_pretrained(tmp_path / "saved")
    assert weight_names(tmp_path / "saved") == set(model.state_dict())


def test_base_model_alone(converted, model, inputs, tmp_path):
    base, info = AutoModel.from_pretrained(converted, dtype=torch.float32, output_loading_info=True)
    assert type(base) is type(model.model)
    assert not any(info.values()), info
    base.save_pretrained(tmp_path)
    assert not any(name.startswith("model.") for name in weight_names(tmp_path))
    with_head, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {"lm_head.weight"}
    with torch.no_grad():
        states = [m(**inputs).last_hidden_state for m in (base, model.model, with_head.model)]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_checkpoints_open_in_plain_transformers_and_back(model, inputs, tmp_path, relative):
    """A second interpreter without this package loads what we saved, saves it, and we load that."""
    model.save_pretrained(tmp_path / "ours")
    torch.save({"input_ids": inputs["input_ids"], **pixels(inputs)}, tmp_path / "inputs.pt")
    program = f"""
import json, torch
from transformers import AutoModelForImageTextToText
model, info = AutoModelForImageTextToText.from_pretrained({str(tmp_path / "ours")!r}, output_loading_info=True)
inputs = torch.load({str(tmp_path / "inputs.pt")!r}, weights_only=True)
with torch.no_grad():
    torch.save(model(**inputs).logits, {str(tmp_path / "logits.pt")!r})
model.save_pretrained({str(tmp_path / "theirs")!r})
print(json.dumps([type(model).__module__, {{key: sorted(map(str, value)) for key, value in info.items()}}]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    module, info = json.loads(result.stdout.splitlines()[-1])
    assert module.startswith("transformers.models.")
    assert not any(info.values()), info
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert type(loaded) is type(model)
    assert not any(info.values()), info
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    theirs = torch.load(tmp_path / "logits.pt", weights_only=True)
    with torch.no_grad():
        assert relative(model(**inputs).logits, theirs) <= TOLERANCE


@pytest.mark.parametrize("tied", [False, True])
def test_head_is_tied_only_on_request(tied):
    config = small_config(tie_word_embeddings=tied)
    model = DeepseekVLForConditionalGeneration(config)
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
        assert torch.equal(model.model.language_model.rotary_emb.inv_freq, before)


def test_float16_on_a_cpu_is_warned_of_once(caplog):
    checks.logger.warning_once.cache_clear()
    model = DeepseekVLForConditionalGeneration(small_config()).to(torch.float16)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(2):
            model(input_ids=torch.zeros(1, 3, dtype=torch.long))
    messages = [record.message for record in caplog.records if "float16 on a CPU" in record.message]
    assert len(messages) == 1
    assert "dtype=torch.bfloat16" in messages[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_on_a_cpu_are_not_warned_of(caplog, dtype):
    checks.logger.warning_once.cache_clear()
    model = DeepseekVLForConditionalGeneration(small_config()).to(dtype)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        model(input_ids=torch.zeros(1, 3, dtype=torch.long))
    assert "float16" not in caplog.text


def test_what_loaders_and_servers_read(model):
    assert model._supports_attention_backend
    assert {"SiglipEncoderLayer", "LlamaDecoderLayer"} <= set(model._no_split_modules)
    plan = model._tp_plan
    assert plan["lm_head"] == "colwise_gather_output"
    assert plan["model.language_model.layers.*.self_attn.q_proj"] == "colwise"


def test_nothing_deprecated_is_used(family, model, caplog):
    """transformers announces removals through its logger."""
    with caplog.at_level(logging.WARNING):
        inputs = family.inputs(0)
        model.generate(**inputs, max_new_tokens=2)
    assert not [record.message for record in caplog.records if "deprecat" in record.message.lower()]
