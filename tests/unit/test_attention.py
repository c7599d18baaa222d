"""The language models' attention: transformers' `sdpa`, with a detour for single queries on a CPU."""

import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from deepseek_vl_hf.models.attention import SDPA_BY_DEVICE, sdpa_by_device

SDPA = ALL_ATTENTION_FUNCTIONS["sdpa"]
# One rounding to bfloat16 of the output; measured 0.004 at most.
ONE_ROUNDING = 2**-8


def heads(tokens, dtype=torch.bfloat16, count=4, seed=0):
    return torch.randn(2, count, tokens, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)


def padding(tokens):
    mask = torch.ones(2, 1, 1, tokens, dtype=torch.bool)
    mask[1, :, :, :5] = False
    return mask


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
def test_equals_sdpa(mask, tokens, dtype, queries, relative):
    query, key, value = heads(tokens, dtype), heads(40, dtype, seed=1), heads(40, dtype, seed=2)
    if mask is not None and tokens > 1:
        mask = mask.expand(-1, -1, tokens, -1)
    module = nn.Module()
    found, weights = sdpa_by_device(module, query, key, value, mask, scaling=0.3)
    assert queries == [2 if tokens == 1 and dtype == torch.bfloat16 else tokens]
    assert weights is None
    expected, _ = SDPA(module, query, key, value, mask, scaling=0.3)
    assert found.shape == expected.shape
    assert relative(found, expected.float()) <= (ONE_ROUNDING if dtype == torch.bfloat16 else 0)


def test_heads_that_share_keys_are_left_to_sdpa(queries, relative):
    module = nn.Module()
    module.num_key_value_groups = 2
    arguments = (module, heads(1), heads(40, count=2, seed=1), heads(40, count=2, seed=2), None)
    found, _ = sdpa_by_device(*arguments)
    ours = queries.pop()
    expected, _ = SDPA(*arguments)
    assert queries == [ours]
    assert torch.equal(found, expected)


def test_is_what_language_models_have_by_default(family):
    config = family.model.config
    assert config.text_config._attn_implementation == SDPA_BY_DEVICE
    assert config.vision_config._attn_implementation == "sdpa"
    assert config._attn_implementation == "sdpa"
    for asked in ("sdpa", "eager"):
        model = AutoModelForImageTextToText.from_pretrained(family.converted, attn_implementation=asked)
        assert model.config.text_config._attn_implementation == asked


def test_is_not_saved(family, tmp_path):
    family.model.save_pretrained(tmp_path)
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()
    assert "text_config" in json.loads((tmp_path / "config.json").read_text())


@torch.no_grad()
@pytest.mark.parametrize("name", ["vl", "vl2_mha"])
def test_an_answers_tokens_in_a_padded_batch(families, name, relative, queries):
    """bfloat16: the logits behind a cache are those of transformers' own `sdpa`."""
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
        step = model(input_ids=torch.tensor([[7], [8]]), attention_mask=mask, past_key_values=outputs.past_key_values)
        assert set(queries) == {1 if asked else 2}
        logits.append(step.logits.float())
    assert relative(*logits) <= 0.01
