"""Prepacked weights: the same numbers, and what they cannot do says so."""

import copy

import pytest
import torch

from deepseek_vl_hf import int4_config, prepack_weights
from deepseek_vl_hf.cpu.packed_weights import PrepackedLinear
from family import CONTRACT_FAMILIES

# Another order of the same sums; measured 6e-7 in float32 and 0 in bfloat16, relative.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}


@pytest.fixture(scope="module", params=CONTRACT_FAMILIES)
def family(request, families):
    return families[request.param]


def plain_layers(model):
    return {name for name, layer in model.named_modules() if type(layer) is torch.nn.Linear}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_numbers(family, dtype, relative):
    plain, model = family.load(dtype), family.load(dtype)
    inputs = family.inputs(family.one_image).to("cpu", dtype)
    assert prepack_weights(model) is model
    packed = sum(isinstance(layer, PrepackedLinear) for layer in model.modules())
    left = plain_layers(model)
    assert packed + len(left) == len(plain_layers(plain))
    assert all(name.endswith("kv_b_proj") for name in left)
    found, expected = model(**inputs).logits, plain(**inputs).logits
    assert found.dtype == dtype
    assert relative(found, expected) <= TOLERANCE[dtype]


def test_answers_with_any_cache_and_batch(family):
    model = prepack_weights(family.load())
    inputs = family.batch([0, 1])
    for settings in ({}, {"num_beams": 2}, {"cache_implementation": "static"}):
        expected = family.model.generate(**inputs, max_new_tokens=6, do_sample=False, **settings)
        assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False, **settings), expected)


def test_quantized_layers_stay_as_they_are(vl):
    model = type(vl.model).from_pretrained(
        vl.converted, dtype=torch.bfloat16, quantization_config=int4_config(group_size=32)
    )
    names = {name for name, layer in model.named_modules() if type(layer) is torch.nn.Linear}
    quantized = {name for name in names if type(model.get_submodule(name).weight.data) is not torch.Tensor}
    prepack_weights(model)
    assert plain_layers(model) == quantized
    assert quantized


def test_they_cannot_be_saved(vl, tmp_path):
    model = prepack_weights(vl.load())
    with pytest.raises(RuntimeError, match="neither saved, copied nor replaced"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    for wrong in (model.state_dict, lambda: copy.deepcopy(model), lambda: model.load_state_dict({}, strict=False)):
        with pytest.raises(RuntimeError, match="neither saved, copied nor replaced"):
            wrong()


def test_they_cannot_be_trained(vl):
    model = prepack_weights(vl.load())
    with pytest.raises(RuntimeError, match=r"for inference. Call the model under torch.no_grad\(\)"):
        model(**vl.inputs(vl.one_image), labels=vl.inputs(vl.one_image)["input_ids"]).loss.backward()


def test_they_cannot_be_moved_or_cast(vl):
    model = prepack_weights(vl.load())
    assert model.to("cpu", torch.float32) is model
    for move in ({"dtype": torch.float16}, {"device": "meta"}):
        with pytest.raises(RuntimeError, match=r"stay on the CPU in torch.float32; found a move to"):
            model.to(**move)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@torch.no_grad()
def test_layers_in_two_places_and_layers_with_hooks():
    shared, hooked = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    hooked.register_forward_hook(lambda layer, inputs, output: output + 1)
    model, values = torch.nn.Sequential(shared, hooked, shared), torch.randn(3, 8)
    expected = model(values)
    prepack_weights(model)
    assert model[0] is model[2]
    assert isinstance(model[0], PrepackedLinear)
    assert model[1] is hooked
    torch.testing.assert_close(model(values), expected)


def test_inputs_of_another_type_or_width():
    model = prepack_weights(torch.nn.Sequential(torch.nn.Linear(8, 8)))
    for values in (torch.randn(3, 8).bfloat16(), torch.randn(3, 7)):
        with pytest.raises(ValueError, match=r"the weights are packed in torch.float32 for a width of 8"):
            model(values)


def test_a_single_layer():
    with pytest.raises(ValueError, match="a single linear layer"):
        prepack_weights(torch.nn.Linear(2, 2))


def test_a_processor_without_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(RuntimeError, match="no bfloat16 products on this processor"):
        prepack_weights(torch.nn.Sequential(torch.nn.Linear(4, 4, dtype=torch.bfloat16)))


@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.bfloat16), ("cpu", torch.float16)])
def test_other_devices_and_types(device, dtype):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, device=device, dtype=dtype))
    with pytest.raises(ValueError, match=rf"0.weight is on {device} in {dtype}; prepacked weights are for a CPU"):
        prepack_weights(model)


def test_a_torch_without_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no oneDNN"):
        prepack_weights(torch.nn.Linear(2, 2))
