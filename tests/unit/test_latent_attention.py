"""Latent attention: absorbed equals expanded, and the cache holds latents and nothing else."""

import copy

import pytest
import torch
from transformers import AutoModelForImageTextToText, DynamicCache, StaticCache

from deepseek_vl_hf.models.deepseek_moe import latent_attention
from deepseek_vl_hf.models.deepseek_moe.configuration_deepseek_moe import DeepseekMoeConfig
from deepseek_vl_hf.models.deepseek_moe.latent_attention import DeepseekMoeLatentAttention

# float32, another order of the same sums: measured 3e-7 relative.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def latent(families):
    return families["vl2_mla"]


@pytest.fixture
def ways(monkeypatch):
    """Which way each attention went."""
    taken = []
    for name in ("_absorbed", "_expanded"):
        method = getattr(DeepseekMoeLatentAttention, name)

        def recorded(self, *arguments, method=method, name=name, **kwargs):
            taken.append(name)
            return method(self, *arguments, **kwargs)

        monkeypatch.setattr(DeepseekMoeLatentAttention, name, recorded)
    return taken


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("count", [1, 5])
def test_absorbed_equals_expanded(latent, relative, ways, monkeypatch, implementation, count):
    """A few tokens after a filled cache, in a padded batch."""
    model = AutoModelForImageTextToText.from_pretrained(
        latent.converted, dtype=torch.float32, attn_implementation=implementation
    ).eval()
    batch = latent.batch([4, 5])
    filled = model(**batch).cache
    ids = torch.full((2, count), 7)
    mask = torch.cat([batch["attention_mask"], torch.ones_like(ids)], 1)
    logits = []
    for most in (latent_attention.MOST_ABSORBED_QUERIES, 0):
        monkeypatch.setattr(latent_attention, "MOST_ABSORBED_QUERIES", most)
        del ways[:]
        cache = copy.deepcopy(filled)
        logits.append(model(input_ids=ids, attention_mask=mask, cache=cache).logits)
        assert set(ways) == {"_absorbed" if most else "_expanded"}
    assert relative(*logits) <= TOLERANCE


@torch.no_grad()
def test_prompts_are_expanded_and_answers_absorbed(latent, ways):
    layers = latent.model.config.text_config.num_hidden_layers
    latent.model.generate(**latent.inputs(4), max_new_tokens=3, do_sample=False)
    assert ways == ["_expanded"] * layers + ["_absorbed"] * 2 * layers


@torch.no_grad()
def test_attention_maps_of_both_ways(latent, relative, monkeypatch):
    model = AutoModelForImageTextToText.from_pretrained(
        latent.converted, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = latent.inputs(4)["input_ids"]
    cache = model(input_ids=ids[:, :-1]).cache
    absorbed = model(input_ids=ids[:, -1:], cache=cache, output_attentions=True).attentions
    whole = model(input_ids=ids, output_attentions=True).attentions
    for one, other in zip(absorbed, whole, strict=True):
        assert one.shape == (1, model.config.text_config.num_attention_heads, 1, ids.shape[1])
        assert relative(one, other[:, :, -1:]) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_cache_holds_latent_and_rotary_key(latent, batch_size):
    """Per token and layer kv_lora_rank + qk_rope_head_dim numbers: 576 of the published sizes."""
    config = latent.model.config.text_config
    cache = latent.model(input_ids=torch.full((batch_size, 11), 7)).cache
    assert len(cache.layers) == config.num_hidden_layers
    numbers = [layer.keys.numel() + layer.values.numel() for layer in cache.layers]
    assert numbers == [batch_size * 11 * (config.kv_lora_rank + config.qk_rope_head_dim)] * config.num_hidden_layers
    published = DeepseekMoeConfig()
    assert published.kv_lora_rank + published.qk_rope_head_dim == 576


@torch.no_grad()
def test_a_static_cache_holds_as_much_per_place(latent):
    config = latent.model.config.text_config
    cache = StaticCache(config=latent.model.config, max_cache_len=32)
    latent.model(input_ids=torch.full((1, 11), 7), cache=cache)
    assert cache.layers[0].keys.shape == (1, 1, 32, config.kv_lora_rank)
    assert cache.layers[0].values.shape == (1, 1, 32, config.qk_rope_head_dim)


@torch.no_grad()
def test_a_wrapped_projection_is_never_absorbed(latent, ways):
    """What wraps or packs kv_b_proj, as adapters and quantization do, is called and its weight not read."""
    model = latent.load()
    for layer in model.model.language_model.layers:
        layer.self_attn.kv_b_proj = torch.nn.Sequential(layer.self_attn.kv_b_proj)
    inputs = latent.inputs(4)
    found = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert set(ways) == {"_expanded"}
    assert torch.equal(found, latent.model.generate(**inputs, max_new_tokens=4, do_sample=False))


@torch.no_grad()
def test_caches_of_another_kind_of_attention_are_refused(families):
    ids = torch.full((1, 3), 7)
    for name, other in (("vl2_mla", "vl2_mha"), ("vl2_mha", "vl2_mla")):
        cache = families[name].model(input_ids=ids).cache
        with pytest.raises(ValueError, match="filled by another model; begin with a new one"):
            families[other].model(input_ids=ids, cache=cache)
    empty = DynamicCache(config=families["vl2_mha"].model.config)
    assert families["vl2_mla"].model(input_ids=ids, cache=empty).cache is empty
