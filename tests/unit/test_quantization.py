"""4-bit weights: which layers get them, and that the model still answers."""

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from deepseek_vl_hf import int4_config
from family import VL_FAMILIES


def quantized_layers(model):
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and type(module.weight.data) is not torch.Tensor
    }


@pytest.mark.parametrize("family", VL_FAMILIES, indirect=True, scope="session")
def test_exactly_the_text_models_layers(family):
    """Widths of 64 hold two groups of 32; down_proj reads 176 numbers, which 32 does not divide."""
    model = AutoModelForImageTextToText.from_pretrained(
        family.original, dtype=torch.bfloat16, quantization_config=int4_config(group_size=32)
    )
    names = [f"self_attn.{part}_proj" for part in "qkvo"] + ["mlp.gate_proj", "mlp.up_proj"]
    expected = {f"model.language_model.layers.{layer}.{name}" for layer in (0, 1) for name in names}
    assert quantized_layers(model) == expected

    inputs = family.inputs(0).to("cpu", dtype=torch.bfloat16)
    whole = AutoModelForImageTextToText.from_pretrained(family.original, dtype=torch.bfloat16)
    with torch.no_grad():
        found, expected = model(**inputs).logits, whole(**inputs).logits
    # In the norm 4 bits move the logits by 0.26. Scales that are 1.5 times too large move them by 0.51, neighbouring
    # groups in each other's place by 1.2.
    assert 0.1 < ((found - expected).norm() / expected.norm()).item() < 0.38
    assert model.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


def test_experts_tower_and_projector_keep_their_type(vl2):
    model = AutoModelForImageTextToText.from_pretrained(
        vl2.original, dtype=torch.bfloat16, quantization_config=int4_config(group_size=32)
    )
    attention = [f"self_attn.{part}_proj" for part in "qkvo"]
    dense = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]  # of the first layer: 160 is a multiple of 32
    expected = {f"model.language_model.layers.{layer}.{name}" for layer in (0, 1, 2) for name in attention}
    expected |= {f"model.language_model.layers.0.{name}" for name in dense}
    shared = ["gate_proj", "up_proj"]  # down_proj reads 48
    expected |= {
        f"model.language_model.layers.{layer}.mlp.shared_experts.{name}" for layer in (1, 2) for name in shared
    }
    assert quantized_layers(model) == expected
    inputs = vl2.inputs(4)
    assert model.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize("family", VL_FAMILIES, indirect=True, scope="session")
def test_the_model_without_its_head(family):
    """Its names have no prefix; the same layers are chosen."""
    model = AutoModel.from_pretrained(
        family.original, dtype=torch.bfloat16, quantization_config=int4_config(group_size=32)
    )
    parts = {name.partition(".")[0] for name in quantized_layers(model)}
    assert parts == {"language_model"}
    assert len(quantized_layers(model)) == 12


def test_group_sizes():
    with pytest.raises(ValueError, match="group_size is 100; expected one of 32, 64, 128, 256"):
        int4_config(group_size=100)


def test_the_device_decides_the_recipe():
    assert type(int4_config(device="cpu").quant_type).__name__ == "PrototypeInt4WeightOnlyConfig"
    recipe = int4_config(device="cuda:0").quant_type
    assert (type(recipe).__name__, recipe.group_size) == ("Int4WeightOnlyConfig", 128)
    assert recipe.int4_packing_format == "tile_packed_to_4d"
