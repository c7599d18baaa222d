"""docs/generation.md's way to a compiled decode on a CPU, with code generation."""

import torch


def test_compiled_static_generation(family):
    model, inputs = family.load(), family.inputs(0)
    expected = family.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    model.forward = torch.compile(model.forward, fullgraph=True, dynamic=True)
    found = model.generate(**inputs, max_new_tokens=8, do_sample=False, cache_implementation="static")
    torch.compiler.reset()
    assert torch.equal(found, expected)
