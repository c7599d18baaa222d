"""The cache that grows in place: transformers' values in memory that stays where it is."""

import copy

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from deepseek_vl_hf.models.cache import PLACES, GrowingLayer, growing, growing_cache


def states(tokens, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, 3, tokens, width, generator=generator) for width in (8, 4))


@pytest.fixture
def pair(vl):
    """Ours and transformers', with one layer each."""
    config = vl.model.config.text_config
    caches = (growing_cache(config), DynamicCache(config=config))
    for cache in caches:
        cache.layers = cache.layers[:1]
    return caches


def update(caches, *tensors):
    """Appends to both; what both give back."""
    return [cache.update(*tensors, 0) for cache in caches]


def assert_alike(results):
    (keys, values), (expected_keys, expected_values) = results
    assert torch.equal(keys, expected_keys)
    assert torch.equal(values, expected_values)


def test_tokens_are_appended_cut_off_and_written_over(pair):
    assert_alike(update(pair, *states(20)))
    for step in range(PLACES + 5):
        assert_alike(update(pair, *states(1, step)))
    for cache in pair:
        cache.crop(-30)
    assert pair[0].get_seq_length() == pair[1].get_seq_length() == 20 + PLACES + 5 - 30
    assert_alike(update(pair, *states(7, 99)))


def test_memory_stays_where_it_is_and_is_little_more_than_needed(pair):
    cache = pair[0]
    keys, _ = cache.update(*states(20), 0)
    for step in range(PLACES):
        place = keys.data_ptr()
        keys, values = cache.update(*states(1, step), 0)
        assert keys.data_ptr() == place
    keys, values = cache.update(*states(1), 0)
    assert keys.data_ptr() != place
    for tensor in (keys, values):
        places = tensor.untyped_storage().nbytes() // tensor[:, :, :1].nbytes
        assert places == tensor.shape[2] + PLACES


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.batch_select_indices(torch.tensor([1])),
    ],
    ids=["reorder", "repeat", "select"],
)
def test_beams(pair, change):
    update(pair, *states(5))
    for cache in pair:
        change(cache)
    batch = pair[1].layers[0].keys.shape[0]
    assert_alike(update(pair, *states(1, 1, batch)))
    assert_alike(update(pair, *states(1, 2, batch)))


def test_copies_are_apart(pair):
    cache = pair[0]
    before = [tensor.clone() for tensor in cache.update(*states(5), 0)]
    copied = copy.deepcopy(cache)
    cache.crop(-2)
    cache.update(*states(2, 7), 0)
    kept = copied.update(*states(1, 8), 0)
    assert all(torch.equal(new[:, :, :5], old) for new, old in zip(kept, before, strict=True))


def test_emptied(pair):
    update(pair, *states(5))
    for cache in pair:
        cache.reset()
    assert_alike(update(pair, *states(3, 1)))


def test_gradients_pass(pair):
    """In place they could not."""
    first, second = states(4), states(2, 1)
    gradients = []
    for cache in pair:
        leaf = first[0].clone().requires_grad_()
        cache.update(leaf, first[1], 0)
        keys, _ = cache.update(leaf[:, :, :2] * second[0], second[1], 0)
        keys.square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_begun_in_inference_mode_and_continued_outside(pair):
    with torch.inference_mode():
        update(pair, *states(4))
    assert_alike(update(pair, *states(1, 1)))


def test_caches_that_move_to_the_cpu_and_back_stay_plain(pair):
    _, plain = pair
    plain.offloading = True
    assert {type(layer) for layer in growing(plain).layers} == {DynamicLayer}
    plain.offloading = False
    assert {type(layer) for layer in growing(plain).layers} == {GrowingLayer}


def layer_types(model, **settings):
    output = model.generate(
        input_ids=torch.arange(5, 9)[None], max_new_tokens=2, do_sample=False, return_dict_in_generate=True, **settings
    )
    return {type(layer) for layer in output.past_key_values.layers}


def test_generate_grows_in_place_unless_another_cache_is_asked_for(family):
    model = family.model
    assert layer_types(model) == {GrowingLayer}
    handed_in = DynamicCache(config=model.config.text_config)
    for settings in (
        {"past_key_values": handed_in},
        {"cache_implementation": "static"},
    ):
        assert GrowingLayer not in layer_types(model, **settings)


@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}], ids=["greedy", "beams", "lookup"]
)
def test_generate_gives_what_it_gives_with_a_plain_cache(family, how):
    inputs = family.inputs(family.one_image)
    settings = {**how, "max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    ours = family.model.generate(**inputs, **settings)
    plain = DynamicCache(config=family.model.config.text_config)
    assert torch.equal(ours, family.model.generate(**inputs, **settings, past_key_values=plain))
