"""The language models' attention: transformers' `sdpa`, with a detour for single queries on a CPU."""

import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from deepseek_vl_hf.hf.attention import SDPA_BY_DEVICE, sdpa_by_device

SDPA = ALL_ATTENTION_FUNCTIONS["sdpa"]
# In the norm, from float64: measured 0.0023 at most, as of `sdpa` itself, and 3e-7.
TOLERANCES = {torch.bfloat16: 0.0035, torch.float32: 1e-6}


def heads(tokens, dtype=torch.bfloat16, count=4, seed=0):
    return torch.randn(2, count, tokens, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)


def padding(tokens):
    mask = torch.ones(2, 1, 1, tokens, dtype=torch.bool)
    mask[1, :, :, :5] = False
    return mask


def error(found, module, query, key, value, mask, **kwargs):
    """How far off an output is, over its size."""
    exact, _ = SDPA(module, query.double(), key.double(), value.double(), mask, **kwargs)
    assert found.shape == exact.shape
    return ((found - exact).norm() / exact.norm()).item()


@pytest.fixture
def queries(monkeypatch):
    """How many queries torch's kernel got."""
    seen = []
    plain = nn.functional.scaled_dot_product_attention

    def recorded(query, *args, **kwargs):
        seen.append(query.shape[2])
        return plain(query, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", recorded)
    return seen


@pytest.mark.parametrize("mask", [None, padding(40)], ids=["whole", "padded"])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_equals_sdpa(mask, tokens, dtype, queries):
    query, key, value = heads(tokens, dtype), heads(40, dtype, seed=1), heads(40, dtype, seed=2)
    if mask is not None and tokens > 1:
        mask = mask.expand(-1, -1, tokens, -1)
    arguments = (nn.Module(), query, key, value, mask)
    found, weights = sdpa_by_device(*arguments, scaling=0.3)
    assert queries == [2 if tokens == 1 and dtype == torch.bfloat16 else tokens]
    assert weights is None
    assert error(found, *arguments, scaling=0.3) <= TOLERANCES[dtype]


@pytest.mark.parametrize("mask", [None, padding(40)], ids=["whole", "padded"])
def test_heads_that_share_keys(mask, queries):
    """With a mask transformers makes rows of them from 5.23 on."""
    module = nn.Module()
    module.num_key_value_groups = 4
    arguments = (module, heads(1), heads(40, count=1, seed=1), heads(40, count=1, seed=2), mask)
    found, _ = sdpa_by_device(*arguments)
    ours = queries.pop()
    SDPA(*arguments)
    assert ours == (2 if mask is None else queries.pop())
    assert error(found, *arguments) <= TOLERANCES[torch.bfloat16]


@pytest.mark.parametrize("mask", [None, padding(40)], ids=["whole", "padded"])
@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrower_values(mask, tokens, dtype, monkeypatch):
    """As latent attention has; torch's fused kernel gets them as wide as the keys."""
    fused = []
    plain = nn.functional.scaled_dot_product_attention

    def recorded(query, key, value, **kwargs):
        fused.append(query.shape[-1] == key.shape[-1] == value.shape[-1])
        return plain(query, key, value, **kwargs)

    query, key, value = heads(tokens, dtype), heads(40, dtype, seed=1), heads(40, dtype, seed=2)[..., :10]
    if mask is not None:
        mask = mask.expand(-1, -1, tokens, -1)
    arguments = (nn.Module(), query, key, value, mask)
    with monkeypatch.context() as context:
        context.setattr(nn.functional, "scaled_dot_product_attention", recorded)
        found, _ = sdpa_by_device(*arguments)
    assert fused == [True]
    assert found.shape == (2, tokens, 4, 10)
    assert error(found, *arguments) <= TOLERANCES[dtype]


def test_elsewhere_than_on_a_cpu_nothing_is_done(queries):
    query, key, value = (states.to("meta") for states in (heads(1), heads(40), heads(40)[..., :10]))
    assert sdpa_by_device(nn.Module(), query, key, value, None)[0].shape == (2, 1, 4, 10)
    assert queries == [1]


def test_paged_caches_are_refused():
    """transformers makes no masks for them under this name."""
    with pytest.raises(ValueError, match=r"set_attn_implementation\('sdpa'\)"):
        sdpa_by_device(nn.Module(), heads(1), heads(40), heads(40), None, cache=object())


def test_is_what_language_models_have_by_default(family):
    config = family.model.config
    assert config.text_config._attn_implementation == SDPA_BY_DEVICE
    assert config.vision_config._attn_implementation == "sdpa"
    assert config._attn_implementation == "sdpa"
    for asked in ("sdpa", "eager"):
        model = AutoModelForImageTextToText.from_pretrained(family.converted, attn_implementation=asked)
        assert model.config.text_config._attn_implementation == asked
        model.set_attn_implementation({"text_config": SDPA_BY_DEVICE})
        assert model.config.text_config._attn_implementation == SDPA_BY_DEVICE


def test_is_not_saved(family, tmp_path):
    family.model.save_pretrained(tmp_path)
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()
    assert "text_config" in json.loads((tmp_path / "config.json").read_text())


@torch.no_grad()
@pytest.mark.parametrize("name", ["vl", "vl2_mha"])
def test_an_answers_tokens_in_a_padded_batch(families, name, relative, queries):
    """bfloat16: the logits after a cache are those of transformers' own `sdpa`."""
    family = families[name]
    batch = family.batch([2, 3])
    logits = []
    for asked in (None, "sdpa"):
        model = AutoModelForImageTextToText.from_pretrained(
            family.converted, dtype=torch.bfloat16, attn_implementation=asked
        ).eval()
        outputs = model(**batch, use_cache=True)
        mask = torch.cat([batch["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
        queries.clear()
        step = model(input_ids=torch.tensor([[7], [8]]), attention_mask=mask, cache=outputs.cache)
        assert set(queries) == {1 if asked else 2}
        logits.append(step.logits.float())
    assert relative(*logits) <= 0.01
