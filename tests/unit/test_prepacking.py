"""Prepacked weights: the same numbers, and what they cannot do says so."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from deepseek_vl_hf import int4_config, packing_report, prepack_weights
from deepseek_vl_hf.cpu import ways
from deepseek_vl_hf.cpu.packed_modules import Packed, PrepackedExperts, PrepackedLinear
from deepseek_vl_hf.cpu.packed_weights import packing_seconds
from deepseek_vl_hf.hf.kernels import has_fbgemm, processor_has_bfloat16
from deepseek_vl_hf.models.deepseek_moe.experts import DeepseekMoeRouter
from family import CONTRACT_FAMILIES

# Another order of the same sums; measured 6e-7 in float32 and 0 in bfloat16, relative. Of float16 and bfloat16 weights
# computed in float32 2.4e-6, on a processor with AMX; numbers rounded to 16 bits in between would show at 1e-3.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}
needs_bfloat16 = pytest.mark.skipif(not processor_has_bfloat16(), reason="the processor has no bfloat16")
needs_fbgemm = pytest.mark.skipif(not has_fbgemm(), reason="this build of torch has no fbgemm")


@pytest.fixture(scope="module", params=CONTRACT_FAMILIES)
def family(request, families):
    return families[request.param]


def plain_layers(model):
    return {name for name, layer in model.named_modules() if type(layer) is torch.nn.Linear}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)])
def test_the_same_numbers(family, dtype, relative):
    plain, model = family.load(dtype), family.load(dtype)
    inputs = family.inputs(family.one_image).to("cpu", dtype)
    assert prepack_weights(model) is model
    packed = sum(isinstance(layer, PrepackedLinear) for layer in model.modules())
    left = plain_layers(model)
    assert packed + len(left) == len(plain_layers(plain))
    experts = [name for name, _ in plain.named_modules() if name.endswith(".experts")]
    assert all(isinstance(model.get_submodule(name), PrepackedExperts) for name in experts)
    assert all(name.endswith("kv_b_proj") for name in left)
    found, expected = model(**inputs).logits, plain(**inputs).logits
    assert found.dtype == dtype
    if dtype == torch.bfloat16 and experts:
        assert_no_further_from_float32(family, inputs, (model, plain), relative)
    else:
        assert relative(found, expected) <= TOLERANCE[dtype]


def assert_no_further_from_float32(family, inputs, models, relative):
    """One bit of another sum lets a router choose another expert; with the choices of float32, both are as exact."""
    exact, chosen = family.load(torch.bfloat16).float(), []
    for router in routers_of(exact):
        router.register_forward_hook(lambda router, inputs, output: chosen.append(output[2]))
    expected = exact(**{name: value.float() if value.is_floating_point() else value for name, value in inputs.items()})
    errors = []
    for model in models:
        remaining = iter(chosen)

        def choose(router, inputs, output, remaining=remaining):
            weights = router.scores(output[0]).gather(-1, experts := next(remaining))
            if router.norm_topk_prob:
                weights = weights / weights.sum(-1, keepdim=True)
            return output[0], weights * router.routed_scaling_factor, experts

        for router in routers_of(model):
            router.register_forward_hook(choose)
        errors.append(relative(model(**inputs).logits.float(), expected.logits))
        assert next(remaining, None) is None
    assert errors[0] <= 1.1 * errors[1] < 0.15


def routers_of(model):
    return [module for module in model.modules() if isinstance(module, DeepseekMoeRouter)]


@torch.no_grad()
@needs_fbgemm
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_computed_in_float32(family, dtype, relative, monkeypatch):
    """On a processor without bfloat16, and of the published files' float16 on any: as exact as float32."""
    monkeypatch.setattr(ways, "processor_has_bfloat16", lambda: False)
    exact, model = family.load(dtype).float(), prepack_weights(family.load(dtype))
    inputs = family.inputs(family.one_image)
    found, expected = model(**inputs).logits, exact(**inputs).logits
    assert found.dtype == model.dtype == torch.float32
    assert relative(found, expected) <= 4e-6
    settings = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **settings), exact.generate(**inputs, **settings))
    rows = packing_report(model)
    assert {row.way for row in rows if not row.reason} == {"float16 weights", "16 bits, read in float32"}
    assert {row.reason for row in rows} <= {"", "its weight is read elsewhere"}
    assert sum(row.num_bytes for row in rows if not row.reason) == 2 * sum(
        parameter.numel()
        for name, parameter in exact.named_parameters()
        if name.rpartition(".")[0] in {row.name for row in rows if not row.reason} and not name.endswith("bias")
    )


@torch.no_grad()
@needs_fbgemm
def test_what_float16_cannot_hold(monkeypatch, relative):
    torch.manual_seed(0)
    monkeypatch.setattr(ways, "processor_has_bfloat16", lambda: False)
    model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Linear(8, 4)).bfloat16()
    model[1].weight[0, 0] = 1e5
    weights, values, done = model[1].weight.float().clone(), torch.randn(3, 16), []
    expected = copy.deepcopy(model).float()(values)
    prepack_weights(model, lambda *numbers: done.append(numbers))
    assert relative(model(values), expected) <= TOLERANCE[torch.float32]
    first, second = packing_report(model)
    assert (first.way, first.reason, first.num_bytes) == ("float16 weights", "", 256)
    assert (second.way, second.num_bytes) == ("oneDNN blocks", 128)
    assert second.reason.startswith(f"it holds {weights.max():g}, beyond what float16 holds")
    assert sorted(done)[-1] == (160, 160)
    assert len(done) == 2


@torch.no_grad()
def test_a_torch_without_fbgemm(monkeypatch):
    monkeypatch.setattr(ways, "processor_has_bfloat16", lambda: False)
    monkeypatch.setattr(ways, "has_fbgemm", lambda: False)
    model, values = torch.nn.Sequential(torch.nn.Linear(16, 8)).half(), torch.randn(3, 16)
    expected = copy.deepcopy(model).float()(values)
    torch.testing.assert_close(prepack_weights(model)(values), expected)
    (row,) = packing_report(model)
    assert row.reason == "this build of torch has no fbgemm, so the weight takes 4 bytes a number"


def test_a_processor_held_to_older_instructions(vl):
    """The variables of torch and oneDNN are heard: bfloat16 weights are packed to compute in float32."""
    code = (
        "import sys, torch; from deepseek_vl_hf import fast_dtype, prepack_weights, packing_report;"
        "from transformers import AutoModelForImageTextToText as A;"
        "m = prepack_weights(A.from_pretrained(sys.argv[1], dtype=torch.bfloat16));"
        "print(fast_dtype('cpu'), m.dtype, {row.way for row in packing_report(m)} - {'as it was'})"
    )
    held = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    result = subprocess.run(
        [sys.executable, "-c", code, vl.converted],
        env={**os.environ, **held},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("torch.float32 torch.float32 {")


def test_the_time_it_takes_is_said_before(vl):
    assert 0 < packing_seconds(vl.model) < 1


def test_answers_with_any_cache_and_batch(family):
    model = prepack_weights(family.load())
    inputs = family.batch([0, 1])
    for settings in ({}, {"num_beams": 2}, {"cache_implementation": "static"}):
        expected = family.model.generate(**inputs, max_new_tokens=6, do_sample=False, **settings)
        assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False, **settings), expected)


@needs_bfloat16
def test_quantized_layers_stay_as_they_are(vl, monkeypatch):
    model = type(vl.model).from_pretrained(
        vl.converted, dtype=torch.bfloat16, quantization_config=int4_config(group_size=32)
    )
    monkeypatch.setattr(ways, "processor_has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r"Load it with dtype=torch.float32 to prepack what has no 4 bits"):
        prepack_weights(model)
    monkeypatch.setattr(ways, "processor_has_bfloat16", lambda: True)
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


@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.bfloat16), ("cpu", torch.float64)])
def test_other_devices_and_types(device, dtype):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, device=device, dtype=dtype))
    with pytest.raises(ValueError, match=rf"0 has weights on {device} in {dtype}; prepacked weights are for a CPU"):
        prepack_weights(model)


def test_several_types():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4).half())
    with pytest.raises(ValueError, match=r"weights in torch.float16 and torch.float32; expected one type"):
        prepack_weights(model)
    assert not any(isinstance(layer, Packed) for layer in model)


def test_a_torch_without_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no oneDNN"):
        prepack_weights(torch.nn.Linear(2, 2))
