"""What transformers promises of `generate`, for every family; docs/limits.md lists what it cannot do itself."""

import copy
import importlib.util
import logging
from threading import Thread

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, StaticCache, TextIteratorStreamer
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from deepseek_vl_hf.hf import versions as compat
from deepseek_vl_hf.hf.attention import SDPA_BY_DEVICE
from deepseek_vl_hf.models import checks, generation
from family import CONTRACT_FAMILIES, VL_FAMILIES

# float32, another order of the same sums: measured 9e-7 relative.
TOLERANCE = 1e-5
NEW_TOKENS = 8


@pytest.fixture(scope="module", params=CONTRACT_FAMILIES)
def family(request, families):
    return families[request.param]


@pytest.fixture(scope="module")
def greedy(model, inputs):
    """Prompt and greedy answer; the reference for every other way to the same tokens."""
    return model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)


def generate(model, inputs, **kwargs):
    return model.generate(**inputs, **{"max_new_tokens": NEW_TOKENS, "do_sample": False, **kwargs})


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_caches(model, inputs, greedy, cache):
    assert torch.equal(generate(model, inputs, cache_implementation=cache), greedy)


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["offloaded", "offloaded_static"])
def test_offloaded_caches(family, inputs, greedy, cache):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; transformers offloads caches from there only")
    generated = generate(family.load().to("cuda"), copy.copy(inputs).to("cuda"), cache_implementation=cache)
    assert torch.equal(generated.cpu(), greedy)


def test_quantized_cache(model, inputs):
    if importlib.util.find_spec("optimum") is None:
        pytest.skip("optimum-quanto is not installed, which transformers needs for it")
    config = {"backend": "quanto", "nbits": 4}
    generated = generate(model, inputs, cache_implementation="quantized", cache_config=config)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + NEW_TOKENS


@pytest.mark.parametrize("make", [DynamicCache, lambda config: StaticCache(config=config, max_cache_len=700)])
def test_caches_that_are_handed_in(model, inputs, greedy, make):
    cache = make(config=model.config.get_text_config())
    assert torch.equal(generate(model, inputs, cache=cache), greedy)
    assert int(cache.get_seq_length()) == greedy.shape[1] - 1


def test_continuous_batching_refuses_pictures(model, inputs):
    with pytest.raises(ValueError, match="would leave the images out"):
        model.generate_batch([inputs["input_ids"][0].tolist()])


@pytest.mark.parametrize("name", ["vl", "vl2_mha"])
def test_continuous_batching_reads_text(families, name):
    """Several prompts at once, the longest in pieces."""
    model = families[name].model
    ids = torch.randint(5, 500, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [ids[:50], ids[20:100], ids]
    config = GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=-1)
    alone = [model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :] for prompt in prompts]
    sizes = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=150)
    outputs = model.generate_batch(prompts, generation_config=config, continuous_batching_config=sizes)
    found = [output.generated_tokens for _, output in sorted(outputs.items())]
    assert found == [tokens.tolist() for tokens in alone]
    assert model.config.text_config._attn_implementation == SDPA_BY_DEVICE


def test_continuous_batching_has_no_place_for_latents(families):
    with pytest.raises(ValueError, match="no cache for latent attention"):
        families["vl2_mla"].model.generate_batch([[5, 6, 7]])


def test_continuing_on_a_cache(model, inputs, greedy):
    first = generate(model, inputs, max_new_tokens=3, return_dict_in_generate=True)
    rest = NEW_TOKENS - 3
    on_the_cache = model.generate(input_ids=first.sequences, cache=first.cache, max_new_tokens=rest, do_sample=False)
    assert torch.equal(on_the_cache, greedy)


def test_going_on_from_a_cropped_cache(model, inputs, greedy):
    length = inputs["input_ids"].shape[1]
    first = generate(model, inputs, max_new_tokens=6, return_dict_in_generate=True)
    cache = first.cache
    cache.crop(length + 2 - cache.get_seq_length())  # negative: how many tokens to take away
    ids = first.sequences[:, : length + 3]
    assert torch.equal(
        model.generate(input_ids=ids, cache=cache, max_new_tokens=NEW_TOKENS - 3, do_sample=False), greedy
    )


def test_a_second_turn_with_a_second_picture_on_the_cache(family, model):
    """The prompt of a batch case with two pictures, read in two steps."""
    whole = family.inputs(1)
    places = (whole["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    images = model.get_image_features(**family.pixels(1)).pooler_output
    first, second = family.processor.first_images(family.pixels(1), 1), {}
    for name, value in family.pixels(1).items():
        second[name] = value[len(first[name]) :]
    cut = int(places[len(images[0])]) - 2
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(
            input_ids=whole["input_ids"][:, :cut],
            cache=cache,
            **first,
        )
        rest = model(
            input_ids=whole["input_ids"][:, cut:],
            cache=cache,
            **second,
        )
        expected = model(**whole).logits[:, cut:]
    assert (rest.logits - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_from_embeddings(family, model, inputs, greedy):
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    for beams in (1, 2):
        found = model.generate(
            inputs_embeds=embeds,
            attention_mask=inputs["attention_mask"],
            **family.pixels(family.one_image),
            max_new_tokens=NEW_TOKENS,
            num_beams=beams,
            do_sample=False,
        )
        expected = greedy if beams == 1 else generate(model, inputs, num_beams=beams)
        assert torch.equal(found, expected[:, inputs["input_ids"].shape[1] :])


@pytest.mark.parametrize("layers", [2, 1])
def test_assisted_by_a_sibling(family, model, inputs, greedy, layers):
    """One that agrees, and a smaller one whose proposals are mostly refused."""
    sibling = family.load()
    sibling.model.language_model.layers = sibling.model.language_model.layers[:layers]
    sibling.config.text_config.num_hidden_layers = layers
    assert torch.equal(generate(model, inputs, assistant_model=sibling), greedy)


def test_prompt_lookup(model, inputs, greedy):
    """Candidates are copied from the prompt, where most tokens are image places."""
    assert torch.equal(generate(model, inputs, prompt_lookup_num_tokens=3), greedy)


def test_streaming(family, model, inputs, greedy):
    tokenizer = family.processor.tokenizer
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    thread = Thread(target=generate, args=(model, inputs), kwargs={"streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(greedy[0, inputs["input_ids"].shape[1] :])


def test_stopping_strings(family, model, inputs, greedy):
    tokenizer, start = family.processor.tokenizer, inputs["input_ids"].shape[1]
    tokens = greedy[0, start:].tolist()
    # The first generated token that is a piece of plain text ends the answer after itself.
    place, text = next((i, tokenizer.decode([t])) for i, t in enumerate(tokens) if tokenizer.decode([t]).isascii())
    stopped = generate(model, inputs, stop_strings=[text], tokenizer=tokenizer)
    assert stopped[0, start:].tolist() == tokens[: place + 1]
    assert place + 1 < NEW_TOKENS


def test_a_batch_with_no_one_and_three_pictures(family, model, images):
    part = {"type": "image", "path": str(images / "tall.png")}
    conversations = [
        [{"role": "user", "content": [part] * count + [{"type": "text", "text": "What?"}]}] for count in (0, 1, 3)
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = family.processor.apply_chat_template(conversations, **options, processor_kwargs={"padding": True})
    together = generate(model, batch)[:, batch["input_ids"].shape[1] :]
    for row, conversation in enumerate(conversations):
        alone = family.processor.apply_chat_template(conversation, **options)
        assert torch.equal(together[row], generate(model, alone)[0, alone["input_ids"].shape[1] :])


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
def test_pictures_are_encoded_once_per_generation(model, inputs, monkeypatch):
    calls = []
    tower = type(model.model.vision_model)
    encode = tower.forward
    monkeypatch.setattr(tower, "forward", lambda self, *a, **k: calls.append(1) or encode(self, *a, **k))
    model.generate(**inputs, max_new_tokens=4, num_beams=3, num_return_sequences=2)
    assert calls == [1]


@torch.no_grad()
def test_generation_without_a_cache(model, inputs):
    with_cache = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False, use_cache=False), with_cache)
    assert model(**inputs, use_cache=False).cache is None
    assert model(**inputs, use_cache=True).cache is not None


@torch.no_grad()
def test_generated_image_tokens_are_no_image_places(model, caplog):
    """Here the model is made to generate nothing else; without a cache every step reads them again."""
    place = model.config.image_token_id
    only_places = {"sequence_bias": {(place,): 1e9}}
    generated = model.generate(input_ids=torch.full((1, 4), 5), max_new_tokens=3, use_cache=False, **only_places)
    assert generated[0, 4:].tolist() == [place] * 3
    checks.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert model.generate(input_ids=generated, max_new_tokens=2).shape == (1, 9)
    assert "encode it with the checkpoint's processor" in caplog.text


@pytest.mark.parametrize("how", ["ids", "embeddings", "empty cache"])
def test_missing_images_are_never_left_out_in_silence(model, inputs, how):
    given = {"input_ids": inputs["input_ids"]}
    if how == "embeddings":
        given = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
    if how == "empty cache":
        given["cache"] = DynamicCache(config=model.config.get_text_config())
    with pytest.raises(ValueError, match="prompt has image places, but no images were passed"):
        model.generate(**given, max_new_tokens=2)


def test_merged_embeddings_hold_their_images(family, model, inputs, greedy):
    """Ids beside them say which tokens were read; the places are filled, so no pixels are missing."""
    ids = inputs["input_ids"]
    features = model.get_image_features(**family.pixels(family.one_image), return_dict=True).pooler_output
    merged = model.get_input_embeddings()(ids).clone()
    merged[ids == model.config.image_token_id] = torch.cat(list(features))
    found = generate(model, {"input_ids": ids, "attention_mask": inputs["attention_mask"], "inputs_embeds": merged})
    assert torch.equal(found, greedy)


def test_beams_with_too_few_images(family, model):
    batch = family.batch([0, 1])
    few = {**batch, **family.processor.first_images(family.pixels(0), 1)}
    with pytest.raises(ValueError, match=r"image places, but (there are 1 images|the images give \d+ tokens)"):
        model.generate(**few, max_new_tokens=2, num_beams=2)


def test_features_that_are_handed_in_stay_as_they_are(family, model, inputs):
    features = model.get_image_features(**family.pixels(family.one_image), return_dict=True)
    before = features.pooler_output
    ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    found = model.generate(**ids, mm_encoder_outputs={"image": features}, max_new_tokens=4, num_beams=2)
    assert torch.equal(found, generate(model, inputs, max_new_tokens=4, num_beams=2))
    assert features.pooler_output is before


@pytest.mark.parametrize("empty", [{}, {"image": None}])
def test_empty_features_are_no_features(model, inputs, greedy, empty):
    before = dict(empty)
    assert torch.equal(generate(model, inputs, mm_encoder_outputs=empty), greedy)
    assert empty == before


@pytest.mark.parametrize("place", ["call", "config", "model"])
def test_candidates_never_hold_image_places(family, inputs, place):
    """Also where a config asks for candidates, and beside tokens that were suppressed before."""
    model = family.load()
    first = generate(model, inputs, max_new_tokens=1)[0, -1].item()
    expected = generate(model, inputs, suppress_tokens=[first])
    settings = {"prompt_lookup_num_tokens": 3, "suppress_tokens": [first], "max_new_tokens": NEW_TOKENS}
    if place == "call":
        found = generate(model, inputs, **settings)
    elif place == "config":
        config = GenerationConfig(**{**model.generation_config.to_dict(), **settings, "do_sample": False})
        found = model.generate(**inputs, generation_config=config)
    else:
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
        found = model.generate(**inputs)
    assert torch.equal(found, expected)


def test_chunked_prefill_reads_the_images_or_says_that_it_cannot(model, inputs):
    plain = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    if compat.CHUNKED_PREFILL_READS_IMAGES:
        chunked = model.generate(**inputs, max_new_tokens=3, do_sample=False, prefill_chunk_size=100)
        assert torch.equal(chunked, plain)
    else:
        with pytest.raises(ValueError, match=r"Install transformers 5\.23 or newer, or leave prefill_chunk_size out"):
            model.generate(**inputs, max_new_tokens=3, prefill_chunk_size=100)


def test_continuous_batching_is_refused_for_pictures(model, inputs):
    with pytest.raises(ValueError, match="would leave the images out"):
        generate(model, inputs, cache_implementation="paged")


def test_long_prompts_are_warned_of(model, caplog, monkeypatch):
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 5)
    generation.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        model.generate(input_ids=torch.full((1, 7), 5), max_new_tokens=1)
    assert "prompt of 7 tokens is longer than the 5 positions (max_position_embeddings)" in caplog.text


class ImageEmbeddings(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **pixels):
        return self.model.get_image_features(**pixels, return_dict=True).pooler_output


@torch.no_grad()
@pytest.mark.parametrize("family", VL_FAMILIES, indirect=True, scope="module")
def test_towers_and_aligner_can_be_exported(family, model, relative):
    module, pixels = ImageEmbeddings(model), family.pixels(2)
    exported = torch.export.export(module, (), pixels)
    assert relative(exported.module()(**pixels), module(**pixels)) <= TOLERANCE
