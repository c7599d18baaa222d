"""docs/generation.md's way to a compiled decode on a CPU, with code generation and without."""

import pytest
import torch

from family import CONTRACT_FAMILIES

# float32, another order of the same sums: measured 9e-7 relative.
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=CONTRACT_FAMILIES)
def family(request, families):
    return families[request.param]


@pytest.mark.parametrize("name", ["vl_hybrid", "vl2_sigmoid"])  # half a minute each
def test_compiled_static_generation(families, name):
    family = families[name]
    model, inputs = family.load(), family.inputs(0)
    expected = family.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    model.forward = torch.compile(model.forward, fullgraph=True, dynamic=True)
    found = model.generate(**inputs, max_new_tokens=8, do_sample=False, cache_implementation="static")
    torch.compiler.reset()
    assert torch.equal(found, expected)


@torch.no_grad()
def test_forward_compiles_without_a_graph_break(family, model, inputs, relative):
    compiled = torch.compile(model.forward, fullgraph=True, backend="eager")
    given = dict(inputs)
    if family.has_experts:  # how many tokens an image has depends on the values of tile_grids
        features = model.get_image_features(**family.pixels(family.one_image))
        given = {"input_ids": inputs["input_ids"], "mm_encoder_outputs": {"image": features}}
    assert relative(compiled(**given).logits, model(**inputs).logits) <= TOLERANCE
    torch.compiler.reset()


@pytest.mark.parametrize("beams", [1, 2])
def test_static_cache_with_a_compiled_forward(family, inputs, beams):
    """The one-liner of docs/generation.md, here without code generation, which takes half a minute."""
    model, settings = family.load(), {"max_new_tokens": 8, "do_sample": False, "num_beams": beams}
    expected = family.model.generate(**inputs, **settings)
    model.forward = torch.compile(model.forward, fullgraph=True, dynamic=True, backend="eager")
    assert torch.equal(model.generate(**inputs, **settings, cache_implementation="static"), expected)
    torch.compiler.reset()
