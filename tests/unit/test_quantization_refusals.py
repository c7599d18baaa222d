"""4-bit weights: what is refused, and how: devices, types, recipes, damaged checkpoints."""

import copy
import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModel, AutoModelForImageTextToText, TorchAoConfig

from deepseek_vl_hf import int4_config
from deepseek_vl_hf.quantization import Int4Config, Int4Quantizer

LAYERS = "model.language_model.layers"


def load(folder, group_size=32, **options):
    options = {"dtype": torch.bfloat16, "quantization_config": int4_config(group_size, "cpu"), **options}
    return AutoModelForImageTextToText.from_pretrained(folder, **options)


@pytest.fixture(scope="module")
def int4(families):
    """A model with groups of 32; tests must not change it."""
    return load(families["vl"].original)


def test_moves_and_casts_are_refused_as_a_whole(families):
    model = load(families["vl"].original)
    before = {name: (parameter.dtype, parameter.device) for name, parameter in model.named_parameters()}
    for change in (lambda: model.to("meta"), lambda: model.to(torch.float64)):
        with pytest.raises(RuntimeError, match=r"packed for cpu in torch.bfloat16 can be neither moved nor cast"):
            change()
    assert {name: (parameter.dtype, parameter.device) for name, parameter in model.named_parameters()} == before
    assert model.to("cpu") is model


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_float16_on_a_cpu(families, dtype):
    """The published VL checkpoints are in float16, so this is what leaving dtype out comes to."""
    with pytest.raises(ValueError, match=r"loaded in torch.float16; 4-bit weights on cpu .* dtype=torch.bfloat16"):
        load(families["vl"].original, dtype=dtype)


def test_the_other_kind_of_device(families, int4, tmp_path):
    with pytest.raises(ValueError, match=r"packs weights for cpu, .* on cuda:0. Pass device_map='cpu'"):
        load(families["vl"].original, device_map="cuda:0")
    with pytest.raises(ValueError, match=r"packs weights for cpu, .* on 0, disk"):
        load(families["vl"].original, device_map={"model": 0, "lm_head": "disk"})
    if not torch.cuda.is_available():
        for device_map in (None, "auto", "cpu"):
            with pytest.raises(ValueError, match="packs weights for cuda, of which there is no device here"):
                load(families["vl"].original, quantization_config=int4_config(device="cuda"), device_map=device_map)
    int4.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"The weights were packed for cpu, .* on cuda"):
        AutoModelForImageTextToText.from_pretrained(tmp_path, device_map="cuda")
    # "auto" is wherever the weights can be, on a machine with CUDA as well.
    assert Int4Quantizer(int4_config(device="cpu")).update_device_map("auto") == {"": "cpu"}
    assert AutoModelForImageTextToText.from_pretrained(tmp_path, device_map="auto").device.type == "cpu"


def test_no_layer_fits(families, tmp_path):
    """A text model of width 48 has no layer that a group of 32 or more divides."""
    sizes = {"hidden_size": 48, "intermediate_size": 80, "head_dim": 12}
    config = copy.deepcopy(families["vl"].model.config)
    config.text_config.update(sizes)
    AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="No layer of the language model has a width that a group size of 128 or less"):
        load(tmp_path, group_size=128)


def test_bad_arguments():
    with pytest.raises(ValueError, match="group_size is 100; expected one of 32, 64, 128"):
        int4_config(group_size=100)
    with pytest.raises(ValueError, match="device is 'mps'; expected cpu or cuda"):
        int4_config(device="mps")


@pytest.mark.parametrize("recipe", ["int4_weight_only", {"quant_method": "torchao", "quant_type": "int4_weight_only"}])
def test_the_model_cards_recipe(families, recipe):
    with pytest.raises(ValueError, match=r"'int4_weight_only' .*int4_config\(group_size=128\)"):
        load(families["vl"].original, quantization_config=recipe)


def test_torchaos_own_config(families, caplog):
    """It works as torchao has it; that it also quantizes towers is said."""
    stock = TorchAoConfig(int4_config(group_size=32, device="cpu").quant_type, modules_to_not_convert=["lm_head"])
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    model, info = load(families["vl"].converted, quantization_config=stock, output_loading_info=True)
    logger.removeHandler(caplog.handler)
    assert not any(info.values()), info
    assert "quantizes the vision towers too" in caplog.text
    assert any("vision" in name and hasattr(weight, "qdata") for name, weight in model.named_parameters())


def test_unknown_keys_of_a_config():
    with pytest.raises(ValueError, match="Found groups in a quantization_config of deepseek_vl_int4"):
        Int4Config.from_dict({**int4_config(device="cpu").to_dict(), "groups": 3})
    assert Int4Config(32, "cpu", modules_to_not_convert=[]).modules_to_not_convert == []


def damaged(change):
    """What `change` makes of the stored parts of one projection."""
    return pytest.param(change, id=change.__name__)


def half_the_groups(parts):
    parts["scale_and_zero"] = parts["scale_and_zero"][::2].contiguous()


def twice_the_groups(parts):
    parts["scale_and_zero"] = parts["scale_and_zero"].repeat(2, 1, 1)


def one_scale_for_all_rows(parts):
    parts["scale_and_zero"] = parts["scale_and_zero"][:, :1].contiguous()


def signed_bytes(parts):
    parts["qdata"] = parts["qdata"].view(torch.int8)


def whole_numbers_as_scales(parts):
    parts["scale_and_zero"] = parts["scale_and_zero"].to(torch.int8)


def fewer_rows(parts):
    parts["qdata"] = parts["qdata"][:48].contiguous()


def fewer_columns(parts):
    parts["qdata"] = parts["qdata"][:, :16].contiguous()


CHANGES = (
    *(half_the_groups, twice_the_groups, one_scale_for_all_rows, signed_bytes),
    *(whole_numbers_as_scales, fewer_rows, fewer_columns),
)


@pytest.mark.parametrize("change", [damaged(change) for change in CHANGES])
def test_damaged_files(int4, tmp_path, change):
    int4.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = f"{LAYERS}.0.self_attn.q_proj._weight"
    parts = {part: tensors[f"{name}_{part}"] for part in ("qdata", "scale_and_zero")}
    change(parts)
    save_file({**tensors, **{f"{name}_{part}": value for part, value in parts.items()}}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"cannot be made of those in .*{LAYERS}.0.self_attn.q_proj"):
        AutoModelForImageTextToText.from_pretrained(tmp_path)


def test_a_source_of_another_shape(families, tmp_path):
    shutil.copytree(families["vl"].converted, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    name = f"{LAYERS}.0.self_attn.q_proj.weight"
    save_file({**tensors, name: tensors[name][:48].contiguous()}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"cannot be made of those in .*{LAYERS}.0.self_attn.q_proj"):
        load(tmp_path / "model")


def test_packed_weights_are_never_left_aside(families, int4, tmp_path):
    """transformers would fill the language model with random numbers, and mention it in a report."""
    int4.save_pretrained(tmp_path)
    for auto in (AutoModelForImageTextToText, AutoModel):
        with pytest.raises(
            ValueError, match=r"holds .*_qdata' as torch.uint8; .* config.json came with: .* None was passed for it"
        ):
            auto.from_pretrained(tmp_path, quantization_config=None)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"came with: it has lost it"):
        AutoModelForImageTextToText.from_pretrained(tmp_path)
    AutoModelForImageTextToText.from_pretrained(families["vl"].converted, quantization_config=None)


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_other_ways_to_multiply_experts(families, implementation):
    model = load(families["vl2_sigmoid"].original)
    model.set_experts_implementation(implementation)
    with pytest.raises(TypeError, match="4-bit experts are multiplied one by one"):
        model(input_ids=torch.arange(5, 25)[None])


def test_saving_parts_and_other_states(int4, tmp_path):
    model = int4
    with pytest.raises(ValueError, match="A part of a model with 4-bit weights cannot be saved by itself"):
        model.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Found state_dict"):
        model.save_pretrained(tmp_path, state_dict=model.state_dict())
    assert not list(tmp_path.iterdir())


def test_weights_of_8_bits_are_not_meant(families, tmp_path):
    """torchao's own recipes of other widths move as they always did."""
    stock = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=["lm_head"])
    model = load(families["vl"].converted, quantization_config=stock)
    assert any(hasattr(weight, "qdata") for weight in model.parameters())
    model.to(torch.float32)
    assert model.lm_head.weight.dtype == torch.float32
