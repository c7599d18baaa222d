"""TRL's trainers: a model's class by folder."""

import types

import pytest
import torch
import transformers
from transformers import AutoConfig

from family import FAMILIES, VL2_FAMILIES

ALL_FAMILIES = (*FAMILIES, *VL2_FAMILIES[1:])
# How TRL's trainers find a model's class, in its releases 0.24 and 1.16.
TRL_PROGRAM = """
import transformers
from transformers import AutoConfig

def create_model_from_path(path, **kwargs):
    config = AutoConfig.from_pretrained(path)
    architecture = getattr(transformers, config.architectures[0], None)
    if architecture is None:
        raise AttributeError(config.auto_map)
    return architecture.from_pretrained(path, **kwargs)
"""


def module(name):
    """A module that holds the program under a name."""
    found = types.ModuleType(name)
    exec(TRL_PROGRAM, found.__dict__)
    return found


@pytest.mark.parametrize("name", ALL_FAMILIES)
@pytest.mark.parametrize("layout", ["original", "converted"])
def test_trl_gets_our_class_by_folder(families, name, layout):
    family = families[name]
    folder = getattr(family, layout)
    model = module("trl.trainer.utils").create_model_from_path(folder, dtype=torch.float32)
    assert type(model) is type(family.model)
    assert model.config.architectures == [type(family.model).__name__]
    expected = family.model.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_real_trl(family):
    utils = pytest.importorskip("trl.trainer.utils", reason="TRL is not in the locked environments")
    for folder in (family.original, family.converted):
        assert type(utils.create_model_from_path(str(folder))) is type(family.model)


def test_nobody_else_notices(family):
    """The architecture is the file's for every other caller; transformers' own class of the name is its own."""
    name = type(family.model).__name__
    assert AutoConfig.from_pretrained(family.converted).architectures == [name]
    if not family.is_vl2:
        assert getattr(transformers, name).__module__.startswith("transformers.")
        by_name = module("trlx.utils").create_model_from_path(family.converted)
        assert type(by_name) is getattr(transformers, name)
