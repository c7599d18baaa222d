"""Adapters on the layers that are chosen where nothing else is asked for."""

import builtins

import peft
import peft.utils
import pytest
import torch
from peft.utils import constants
from torch import nn

from deepseek_vl_hf import int4_config, lora_config, register, unregister
from family import FAMILIES, VL2_FAMILIES

# What peft itself calls.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ALL_FAMILIES = (*FAMILIES, *VL2_FAMILIES[1:])
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
LATENT = {"q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_attention_and_mlps_of_the_language_model_learn(families, name):
    """And nothing else; before the first step the logits are those of the model."""
    family = families[name]
    inputs = family.inputs(1)
    with torch.no_grad():
        expected = family.model(**inputs).logits
    model = peft.get_peft_model(family.load(), lora_config(family.model, 4)).eval()
    learning = {key.split(".lora_")[0] for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("language_model.layers." in key for key in learning)
    latent = name in VL2_FAMILIES[1:]
    assert {key.rpartition(".")[2] for key in learning} == (LATENT if latent else ATTENTION) | MLP
    layers = family.model.config.text_config.num_hidden_layers
    assert sum(key.endswith("o_proj") for key in learning) == layers
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, expected, atol=1e-5)
    model.train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    untaught = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert untaught == []


@pytest.mark.parametrize("name", VL2_FAMILIES)
def test_experts_on_request(families, name):
    """They learn, and what was learned is in the merged model.

    A short prompt, because a choice of experts that is close can turn out otherwise when weights are added up first.
    """
    torch.manual_seed(0)
    family = families[name]
    inputs = family.inputs(4)
    model = peft.get_peft_model(family.load(), lora_config(family.model, 2, experts=True))
    learning = [key for key, parameter in model.named_parameters() if parameter.requires_grad and ".experts." in key]
    moe = family.model.config.text_config.num_hidden_layers - family.model.config.text_config.first_k_dense_replace
    assert len(learning) == moe * 2 * 2
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the second matrix of a pair begins at zero
        model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        answer = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        merged = model.merge_and_unload()
        assert torch.allclose(merged(**inputs).logits, expected, atol=1e-4)
        assert torch.equal(merged.generate(**inputs, max_new_tokens=6, do_sample=False), answer)
    before = family.model.state_dict()
    changed = {key for key, value in merged.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.rpartition(".")[2] for key in changed if ".experts." in key} == {"gate_up_proj", "down_proj"}


def layers_with_adapters(model):
    return {key.split(".lora_")[0] for key, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_the_same_layers_by_default(families, name):
    """Of peft itself, without a word of them."""
    family = families[name]
    ours = peft.get_peft_model(family.load(), lora_config(family.model, 4))
    theirs = peft.get_peft_model(family.load(), peft.LoraConfig(r=4))
    assert layers_with_adapters(theirs) == layers_with_adapters(ours)
    if family.has_experts:
        experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        ours = peft.get_peft_model(family.load(), lora_config(family.model, 4, experts=True))
        theirs = peft.get_peft_model(family.load(), peft.LoraConfig(r=4, target_parameters=experts))
        assert layers_with_adapters(theirs) == layers_with_adapters(ours)


DEFAULTS = "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"


def test_the_default_ends_with_the_registration(families):
    config = families["vl"].model.config
    config.to_dict()
    assert config.model_type in getattr(peft.utils, DEFAULTS)
    unregister()
    try:
        config.to_dict()
        assert not [model_type for model_type in getattr(peft.utils, DEFAULTS) if "deepseek" in model_type]
    finally:
        register()


def test_a_table_of_names_or_of_others_is_left_alone(families, monkeypatch):
    """Before 0.19 peft takes a pattern for a list of letters; and whoever has a say of their own keeps it."""
    config = families["vl"].model.config
    monkeypatch.setattr(constants, DEFAULTS, {"llama": ["q_proj"]})
    config.to_dict()
    assert getattr(constants, DEFAULTS) == {"llama": ["q_proj"]}
    monkeypatch.setattr(constants, DEFAULTS, {"gemma4": r".*q_proj", config.model_type: ["k_proj"]})
    config.to_dict()
    unregister()
    register()
    assert getattr(constants, DEFAULTS)[config.model_type] == ["k_proj"]


def test_four_bits(families):
    family = families["vl2_mha"]
    model = type(family.model).from_pretrained(
        family.converted, dtype=torch.bfloat16, quantization_config=int4_config(32, device="cpu")
    )
    adapted = peft.get_peft_model(model, lora_config(model, 4))
    assert any(parameter.requires_grad for parameter in adapted.parameters())
    with pytest.raises(ValueError, match="Found 4-bit experts in DeepseekVL2ForConditionalGeneration"):
        lora_config(model, experts=True)


def test_options_are_pefts(families):
    config = lora_config(families["vl"].model, 8, lora_dropout=0.1, target_modules=["q_proj"])
    assert (config.r, config.lora_alpha, config.lora_dropout, config.target_modules) == (8, 16, 0.1, {"q_proj"})


def test_refusals(families, monkeypatch):
    with pytest.raises(ValueError, match="Found a Linear without linear layers in a language model"):
        lora_config(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Found no experts in DeepseekVLForConditionalGeneration"):
        lora_config(families["vl"].model, experts=True)
    load = builtins.__import__

    def without_peft(name, *arguments, **options):
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(ImportError, match=r"pip install 'peft>=0.18'"):
        lora_config(families["vl"].model)
