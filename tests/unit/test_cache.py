"""The cache that grows in place: transformers' values in memory that stays where it is."""

import copy
import pickle

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from deepseek_vl_hf.hf import cache as cache_module
from deepseek_vl_hf.hf.cache import PLACES, GrowingLayer, grow_in_place, growing_cache


@pytest.fixture(autouse=True)
def no_gradients(request):
    """As in `generate`; with gradients the layer does what transformers' does."""
    with torch.set_grad_enabled("gradients" in request.node.name):
        yield


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


@pytest.fixture
def few_places(monkeypatch):
    """So that rooms fill up soon."""
    monkeypatch.setattr(cache_module, "CPU_PLACES", 8)
    return 8


def test_tokens_are_appended_and_cut_off(pair, few_places):
    assert_alike(update(pair, *states(20)))
    for step in range(2 * few_places):
        assert_alike(update(pair, *states(1, step)))
    for cache in pair:
        cache.crop(-30)
    assert pair[0].get_seq_length() == pair[1].get_seq_length() == 20 + 2 * few_places - 30
    assert_alike(update(pair, *states(7, 99)))


def test_memory_stays_where_it_is_and_is_little_more_than_needed(pair, few_places):
    cache = pair[0]
    keys, _ = cache.update(*states(20), 0)
    for step in range(few_places):
        place = keys.data_ptr()
        keys, values = cache.update(*states(1, step), 0)
        assert keys.data_ptr() == place
    keys, values = cache.update(*states(1), 0)
    assert keys.data_ptr() != place
    for tensor in (keys, values):
        places = tensor.untyped_storage().nbytes() // tensor[:, :, :1].nbytes
        assert places == tensor.shape[2] + few_places


def test_cut_back_by_its_owner_it_stays_where_it_is(pair):
    cache, plain = pair
    keys, _ = update(pair, *states(20))[0]
    cache.layers[0].cut_back(6)
    plain.crop(-6)
    results = update(pair, *states(3, 1))
    assert_alike(results)
    assert results[0][0].data_ptr() == keys.data_ptr()


def test_cut_back_after_tensors_were_put_in_their_place(pair):
    cache, plain = pair
    update(pair, *states(20))
    for each in pair:  # one row of the batch, which begins where the whole does
        each.layers[0].keys, each.layers[0].values = each.layers[0].keys[:1], each.layers[0].values[:1]
    cache.layers[0].cut_back(6)
    plain.crop(-6)
    assert_alike(update(pair, *states(3, 1, batch=1)))


def test_cut_back_to_nothing_another_batch_may_begin(pair):
    cache = pair[0]
    cache.update(*states(20), 0)
    cache.layers[0].cut_back(20)
    one = states(3, 1, batch=1)
    assert all(torch.equal(*both) for both in zip(cache.update(*one, 0), one, strict=True))


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


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy], ids=["deep", "shallow"])
def test_copies_are_apart(pair, copied):
    for cache in pair:
        cache.update(*states(5), 0)
    others = [copied(cache.layers[0]) for cache in pair]
    assert_alike(update(pair, *states(2, 7)))
    assert_alike([other.update(*states(1, 8)) for other in others])
    assert_alike(update(pair, *states(1, 9)))


def test_pickled(pair):
    update(pair, *states(5))
    loaded = [pickle.loads(pickle.dumps(cache)) for cache in pair]
    assert_alike(update(loaded, *states(1, 1)))
    assert_alike(update(loaded, *states(1, 2)))


def test_what_was_handed_out_is_never_written_to(pair):
    cache = pair[0]
    first = cache.update(*states(10), 0)
    kept = [tensor.clone() for tensor in first]
    cache.crop(-4)
    cache.update(*states(6, 1), 0)
    assert all(torch.equal(*both) for both in zip(first, kept, strict=True))


def test_two_continuations_of_one_beginning(pair):
    """As a search over answers puts tensors back that it kept."""
    layer = pair[0].layers[0]
    beginning = layer.update(*states(10))
    one = layer.update(*states(2, 1))
    kept = [tensor.clone() for tensor in one]
    layer.keys, layer.values = beginning
    layer.update(*states(2, 2))
    assert all(torch.equal(*both) for both in zip(one, kept, strict=True))


def test_tensors_of_another_cache(pair):
    update(pair, *states(5))
    for cache in pair:
        cache.layers[0].keys, cache.layers[0].values = states(5, 3)
    assert_alike(update(pair, *states(1, 4)))


def test_cut_back_it_gives_memory_back(pair):
    cache = pair[0]
    cache.update(*states(4000), 0)
    cache.crop(-3990)
    keys, _ = cache.update(*states(1, 1), 0)
    assert keys.untyped_storage().nbytes() == keys[:, :, :1].nbytes * (11 + PLACES)


def test_emptied(pair):
    update(pair, *states(5))
    for cache in pair:
        cache.crop(-5)
    assert_alike(update(pair, *states(3, 1)))
    for cache in pair:
        cache.reset()
    assert not pair[0].layers[0]._rooms
    assert_alike(update(pair, *states(3, 2)))


@pytest.mark.parametrize("change", ["reorder_cache", "batch_repeat_interleave", "batch_select_indices"])
def test_beams_are_not_kept_twice(pair, change):
    cache = pair[0]
    cache.update(*states(5), 0)
    getattr(cache, change)(2 if change == "batch_repeat_interleave" else torch.tensor([1, 0]))
    assert not cache.layers[0]._rooms


def test_other_types_and_batches_are_converted_or_refused_as_ever(pair):
    update(pair, *states(5))
    assert_alike(update(pair, *(tensor.double() for tensor in states(1, 1))))
    assert pair[0].layers[0].keys.dtype == torch.float64
    for cache in pair:
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            cache.update(*(tensor.double() for tensor in states(1, 2, batch=1)), 0)


@pytest.mark.parametrize("learning", ["keys", "queries"])
def test_gradients_pass(vl, learning):
    """Attention saves the keys also where only the queries learn; in-place writing would make them unusable."""
    gradients = []
    for cache in (growing_cache(vl.model.config.text_config), DynamicCache(config=vl.model.config.text_config)):
        (keys, values), query = states(4), torch.ones(2, 3, 1, 8)
        leaf = (keys if learning == "keys" else query).requires_grad_()
        scores = [(query * cache.update(keys * seed, values, 0)[0]).square().sum() for seed in (1.0, 2.0)]
        sum(scores).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_compiled_steps_between_others(pair):
    torch._dynamo.reset()
    steps = [torch.compile(cache.layers[0].update, backend="eager") for cache in pair]
    update(pair, *states(4))
    assert_alike([step(*states(1, 1)) for step in steps])
    assert not pair[0].layers[0]._rooms
    assert_alike(update(pair, *states(1, 2)))


def test_begun_in_inference_mode_and_continued_outside(pair):
    with torch.inference_mode():
        update(pair, *states(4))
    assert_alike(update(pair, *states(1, 1)))


def test_only_empty_plain_layers_grow(pair):
    """Not those that look back a fixed way, those that hold something, or those that move to the CPU and back."""
    _, plain = pair
    sliding = DynamicSlidingWindowLayer(sliding_window=4)
    plain.layers = [DynamicLayer(), sliding, DynamicLayer()]
    plain.offloading = True
    grow_in_place(plain)
    assert [type(layer) for layer in plain.layers] == [DynamicLayer, DynamicSlidingWindowLayer, DynamicLayer]
    plain.offloading = False
    plain.update(*states(3), 2)
    grow_in_place(plain)
    assert [type(layer) for layer in plain.layers] == [GrowingLayer, DynamicSlidingWindowLayer, DynamicLayer]
    assert plain.layers[2].get_seq_length() == 3


def layer_types(model, **settings):
    output = model.generate(
        input_ids=torch.arange(5, 9)[None], max_new_tokens=2, do_sample=False, return_dict_in_generate=True, **settings
    )
    return {type(layer) for layer in output.cache.layers}


def test_generate_grows_in_place_unless_another_cache_is_asked_for(family):
    model = family.model
    assert layer_types(model) == {GrowingLayer}
    handed_in = DynamicCache(config=model.config.text_config)
    for settings in (
        {"cache": handed_in},
        {"cache_implementation": "static"},
    ):
        assert GrowingLayer not in layer_types(model, **settings)


@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}], ids=["greedy", "beams", "lookup"]
)
def test_generate_gives_what_it_gives_with_a_plain_cache(family, how, few_places):
    inputs = family.inputs(family.one_image)
    new = 2 * few_places  # beyond the first room
    settings = {**how, "max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    ours = family.model.generate(**inputs, **settings)
    plain = DynamicCache(config=family.model.config.text_config)
    assert torch.equal(ours, family.model.generate(**inputs, **settings, cache=plain))
