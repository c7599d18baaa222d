"""What engines get: DeepSeek-MoE in a form of its own with the same numbers, and prompts with a place per picture."""

import copy

import pytest
import torch
from transformers import AttentionInterface

from deepseek_vl_hf.hf.attention import OF_ENGINES
from deepseek_vl_hf.models.deepseek_moe.engine_attention import DeepseekMoeEngineAttention
from deepseek_vl_hf.models.deepseek_moe.engine_model import DeepseekMoeEngineModel, language_model
from deepseek_vl_hf.models.deepseek_moe.latent_attention import DeepseekMoeLatentAttention


def causal(module, query, key, value, mask, scaling, **kwargs):
    """An engine's attention: it makes the mask itself."""
    assert mask is None
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return output.transpose(1, 2), None


@pytest.fixture
def engine(monkeypatch):
    """The name of an engine's attention, known to transformers."""
    monkeypatch.setitem(AttentionInterface._global_mapping, OF_ENGINES[0], causal)
    return OF_ENGINES[0]


@pytest.mark.parametrize("name", ["vl2_mha", "vl2_mla", "vl2_sigmoid"])
def test_an_engine_gets_the_same_numbers(families, engine, name):
    ours = families[name].model.model.language_model
    config = copy.deepcopy(ours.config)
    config._attn_implementation = engine
    theirs = language_model(config).eval()
    assert isinstance(theirs, DeepseekMoeEngineModel)
    assert isinstance(theirs.layers[0].self_attn, DeepseekMoeEngineAttention) == config.use_mla
    theirs.load_state_dict(ours.state_dict())
    ids = torch.arange(1, 41)[None]
    positions = torch.arange(40)[None]
    with torch.no_grad():
        expected = ours(ids, position_ids=positions, use_cache=False).last_hidden_state
        found = theirs(ids, position_ids=positions, use_cache=False).last_hidden_state
    # Measured: 9e-7 of the largest value; scores scaled by the width without position alone are off by 2e-1 and more.
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_others_get_the_usual_form(families):
    model = families["vl2_mla"].model.model.language_model
    assert type(model.layers[0].self_attn) is DeepseekMoeLatentAttention
    assert not isinstance(model, DeepseekMoeEngineModel)


def test_prompts_have_one_place_for_each_picture(family):
    """Typed ones are none; the rest is as with all places."""
    typed = f"What is {family.processor.image_token}?"
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": typed}]}]
    one = family.processor.encode_conversation(conversation, None)
    assert one == family.processor.encode_conversation(conversation, [1])
    place = family.processor.image_token_id
    assert one.count(place) == 1
    assert [number for number in family.processor.encode_conversation(conversation, [5]) if number != place] == [
        number for number in one if number != place
    ]


def test_prompts_for_engines_take_a_template(family):
    conversation = [{"role": "user", "content": "a"}]
    template = "{{ bos_token }}{{ messages[0].content }}{{ tail }}"
    ids = family.processor.encode_conversation(conversation, None, template, tail="b")
    assert family.processor.tokenizer.decode(ids, skip_special_tokens=True) == "ab"
    with pytest.raises(TypeError, match=r"Found other=\.\.\., which neither"):
        family.processor.encode_conversation(conversation, None, template, other="b")
