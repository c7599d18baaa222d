"""The cache has two names: `cache`, which transformers uses from 5.24 on, and `past_key_values`. Ours go by both."""

import pytest
import torch
from transformers import DynamicCache

from deepseek_vl_hf.hf import versions
from deepseek_vl_hf.hf.versions import CACHE, OTHER_CACHE
from family import CONTRACT_FAMILIES

NAMES = ("cache", "past_key_values")
IDS = torch.arange(5, 12)[None]


@pytest.fixture(scope="module", params=CONTRACT_FAMILIES)
def family(request, families):
    return families[request.param]


@pytest.fixture
def filled(model):
    """A cache of the first tokens."""
    return model(input_ids=IDS[:, :-1], use_cache=True).cache


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["whole", "without its head"])
def test_forward(model, filled, name, part):
    runner = model if part == "whole" else model.model
    expected = runner(input_ids=IDS)[0][:, -1:]
    found = runner(input_ids=IDS[:, -1:], **{name: filled})
    assert torch.allclose(found[0], expected, rtol=0, atol=1e-4)  # measured 2e-6; without the cache 0.1 and more
    assert found.cache is filled
    assert filled.get_seq_length() == IDS.shape[1]


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_generate(model, filled, name):
    settings = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    expected = model.generate(input_ids=IDS, **settings)
    found = model.generate(input_ids=IDS, **{name: filled}, **settings)
    assert torch.equal(found.sequences, expected.sequences)
    assert found.cache is filled


@torch.no_grad()
def test_generate_gives_beams_under_both_names(model):
    found = model.generate(input_ids=IDS, max_new_tokens=2, num_beams=2, return_dict_in_generate=True)
    assert found.cache is found["cache"]
    assert found.cache is found[CACHE]


@pytest.mark.uses_old_names
@torch.no_grad()
def test_outputs(model):
    """transformers itself says that the old name will go."""
    for runner in (model, model.model):
        output = runner(input_ids=IDS, use_cache=True)
        cache = output.cache
        assert isinstance(cache, DynamicCache)
        assert all(output[name] is cache and output.get(name) is cache and name in output for name in NAMES)
        assert output.past_key_values is cache
        assert list(output.keys()).count(CACHE) == 1
        assert OTHER_CACHE not in list(output.keys())
        for name in NAMES:
            other = DynamicCache()
            made = type(output)(**{name: other})
            assert made.cache is other
            setattr(made, name, cache)
            assert made.cache is cache


@torch.no_grad()
def test_two_caches_are_refused(model, filled):
    two = {"cache": filled, "past_key_values": DynamicCache(config=model.config.get_text_config())}
    for run in (model, model.model, model.generate):
        with pytest.raises(ValueError, match="two caches, as cache and as past_key_values"):
            run(input_ids=IDS, **two)


@torch.no_grad()
def test_image_outputs(family, model):
    inputs = family.inputs(family.one_image)
    output = model(**inputs)
    features = model.get_image_features(**family.pixels(family.one_image), return_dict=True)
    hidden, expected = output.image_hidden_states, features.pooler_output
    assert output.image_outputs.pooler_output is hidden
    assert all(torch.equal(one, other) for one, other in zip(hidden, expected, strict=True))
    assert torch.equal(output.image_outputs.last_hidden_state, features.last_hidden_state)
    assert not any(isinstance(value, dict) for value in output.to_tuple())
    text = model(input_ids=IDS)
    assert text.image_outputs is None
    assert text.image_hidden_states is None


def test_an_untested_transformers_is_named(monkeypatch):
    versions.warn_if_untested()  # no warning: warnings are errors here
    for release in ("5.17.3", "5.25.0", "6.0.0.dev0"):
        monkeypatch.setattr(versions, "INSTALLED", versions.Version(release))
        with pytest.warns(UserWarning, match=rf"transformers {release}; deepseek_vl_hf is tested with 5.18 to 5.24"):
            versions.warn_if_untested()
