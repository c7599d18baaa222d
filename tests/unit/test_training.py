"""What transformers promises of training, for every family."""

import pytest
import torch
from torch.nn import functional

from family import CONTRACT_FAMILIES


@pytest.fixture(scope="module", params=CONTRACT_FAMILIES)
def family(request, families):
    return families[request.param]


@pytest.fixture(scope="module")
def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_labels(model, inputs, logits):
    labels = inputs["input_ids"].clone()
    labels[:, :100] = -100
    labels[labels == model.config.image_token_id] = -100
    expected = functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
    assert torch.allclose(model(**inputs, labels=labels).loss, expected, rtol=1e-6)


def test_the_loss_can_be_averaged_over_a_whole_batch(model, inputs):
    labels = inputs["input_ids"].clone()
    count = (labels[:, 1:] != -100).sum()
    mean = model(**inputs, labels=labels).loss
    summed = model(**inputs, labels=labels, num_items_in_batch=count * 2).loss
    assert torch.allclose(summed * 2, mean, rtol=1e-5)


def test_gradient_checkpointing_keeps_the_gradients(family, inputs, relative):
    model = family.load().train()

    def gradients():
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    joint = "projector" if family.has_experts else "aligner"
    assert {name.split(".")[1] for name in plain} >= {"vision_model", joint, "language_model", "weight"}
    getattr(
        model, "activation_checkpointing_enable", model.gradient_checkpointing_enable
    )()  # renamed in newer versions
    towers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert len(towers) >= model.config.vision_config.num_hidden_layers + model.config.text_config.num_hidden_layers
    for name, gradient in gradients().items():
        assert relative(gradient, plain[name]) <= 1e-4 or plain[name].abs().max() < 1e-6, name


def gradients(model, inputs):
    model.zero_grad()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(
    "frozen",
    [("vision_model", "high_res_vision"), ("language_model", "lm_head"), ("aligner", "projector")],
    ids=" ".join,
)
def test_frozen_parts_get_no_gradients(family, inputs, frozen):
    model = family.load().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(name.startswith((f"{part}.", f"model.{part}")) for part in frozen))
    assert not all(parameter.requires_grad for parameter in model.parameters())
    found = gradients(model, inputs)
    assert found == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_parameter_can_learn(family, inputs):
    model = family.load().train()
    assert gradients(model, inputs) == {name for name, _ in model.named_parameters()}


@torch.no_grad()
@pytest.mark.parametrize("change", [16, -3])
def test_resized_vocabularies(family, inputs, logits, change):
    model = family.load()
    size = model.config.text_config.vocab_size + change
    model.resize_token_embeddings(size)
    found = model(**inputs).logits
    assert found.shape[-1] == size == model.config.text_config.vocab_size == model.lm_head.out_features
    shared = min(size, logits.shape[-1])
    assert torch.allclose(found[..., :shared], logits[..., :shared], atol=1e-5)


@torch.no_grad()
def test_states_and_attention_maps(family, inputs):
    model = family.load()
    model.set_attn_implementation("eager")
    layers, sequence = model.config.text_config.num_hidden_layers, inputs["input_ids"].shape[1]
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert [state.shape[:2] for state in output.hidden_states] == [(1, sequence)] * (layers + 1)
    assert [attention.shape[-2:] for attention in output.attentions] == [(sequence, sequence)] * layers
    assert torch.allclose(output.attentions[0].sum(-1), torch.ones(()), atol=1e-5)
