"""A checkpoint that another library quantized: integer weights and names that only its loader knows pass the check."""

import pytest
import torch
from editing import tensors_of
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText

pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")

from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
)

GROUP = 16  # columns that share a scale
PACKED = "model.language_model.layers.1.mlp.up_proj.weight_packed"


@pytest.fixture(scope="module")
def quantized(vl, tmp_path_factory):
    """A model whose text layers have 4 bits, and its folder."""
    folder = tmp_path_factory.mktemp("compressed")
    model = AutoModelForImageTextToText.from_pretrained(vl.converted, dtype=torch.float32)
    weights = QuantizationArgs(num_bits=4, strategy="group", group_size=GROUP)
    scheme = QuantizationScheme(targets=[r"re:.*language_model.*proj$"], weights=weights)
    apply_quantization_config(model, QuantizationConfig(config_groups={"text": scheme}, format="pack-quantized"))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            groups = module.weight.data.unflatten(1, (-1, GROUP))
            module.weight_scale.data = groups.abs().amax(-1) / 7
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return model, folder


def test_loading(quantized):
    model, folder = quantized
    assert tensors_of(folder)[PACKED].dtype == torch.int32
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_tensor_that_is_missing(quantized):
    _, folder = quantized
    tensors = tensors_of(folder)
    del tensors[PACKED]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="up_proj"):
        AutoModelForImageTextToText.from_pretrained(folder)
