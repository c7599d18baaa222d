"""4-bit weights: which layers get them, that the model still answers, saving, loading, and what is refused."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, TorchAoConfig

from deepseek_vl_hf import fast_dtype, int4_config, prepack_weights, quantization_report
from deepseek_vl_hf.cpu.packed_modules import PrepackedLinear
from deepseek_vl_hf.models.deepseek_moe.configuration_deepseek_moe import DeepseekMoeConfig
from deepseek_vl_hf.models.deepseek_moe.experts import BY_DEVICE, DeepseekMoeExperts
from deepseek_vl_hf.quantization import Int4Config, Int4Quantizer
from deepseek_vl_hf.quantization.packing import group_size_for
from deepseek_vl_hf.quantization.tensors import Int4CpuWeight, Int4Experts
from family import FAMILIES, FIXTURES, VL2_FAMILIES, VL_FAMILIES

EVERY_FAMILY = (*VL_FAMILIES, *VL2_FAMILIES)
CONFIGS = FIXTURES / "configs"
WITH_LATENTS = ("deepseek-vl2-small", "deepseek-vl2")
LAYERS = "model.language_model.layers"


@pytest.fixture(scope="module")
def int4(families):
    """Each family's model with groups of 32, made once; tests must not change it."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = load(families[name].original)
        return made[name]

    return get


def load(folder, group_size=32, evaluate=True, **options):
    options = {"dtype": torch.bfloat16, "quantization_config": int4_config(group_size, "cpu"), **options}
    loaded = AutoModelForImageTextToText.from_pretrained(folder, **options)
    return loaded.eval() if evaluate else loaded


def quantized(model):
    return {name for name, parameter in model.named_parameters() if hasattr(parameter, "qdata")}


def expected_names(family):
    """Widths of 64 hold two groups of 32; 176 of VL's down_proj and 24 or 48 of experts' hold none."""
    if not family.startswith("vl2"):
        names = [f"self_attn.{part}_proj" for part in "qkvo"] + ["mlp.gate_proj", "mlp.up_proj"]
        return {f"{LAYERS}.{layer}.{name}.weight" for layer in (0, 1) for name in names}
    # kv_b_proj is left out on purpose; kv_a_proj_with_mqa has 40 rows here, of which the kernels want 16, 32, 48 ...
    attention = [f"self_attn.{part}_proj.weight" for part in ("qkvo" if family == "vl2_mha" else "qo")]
    names = {f"{LAYERS}.{layer}.{name}" for layer in (0, 1, 2) for name in attention}
    names |= {f"{LAYERS}.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    names |= {f"{LAYERS}.{layer}.mlp.shared_experts.{name}_proj.weight" for layer in (1, 2) for name in ("gate", "up")}
    return names | {f"{LAYERS}.{layer}.mlp.experts.gate_up_proj" for layer in (1, 2)}


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_exactly_these_layers(int4, name):
    assert quantized(int4(name)) == expected_names(name)


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_answers_stay_near(families, int4, name, relative):
    family, model = families[name], int4(name)
    inputs = family.inputs(0).to("cpu", dtype=torch.bfloat16)
    whole = AutoModelForImageTextToText.from_pretrained(family.original, dtype=torch.bfloat16)
    with torch.no_grad():
        found, expected = model(**inputs).logits, whole(**inputs).logits
    # In the norm 4 bits move the logits by 0.2 to 0.31. Scales that are 1.5 times too large move them by 0.51,
    # neighboring groups in each other's place by 1.2.
    assert 0.1 < ((found - expected).norm() / expected.norm()).item() < 0.38
    assert model.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_the_weights_are_those_that_are_multiplied_with(families, name, relative):
    """A model of plain weights, equal to the 4-bit ones, answers as the quantized model does."""
    family, model = families[name], load(families[name].original, dtype=torch.float32)
    plain = AutoModelForImageTextToText.from_pretrained(family.original, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter_name in quantized(model):
            plain.get_parameter(parameter_name).copy_(dequantize(model.get_parameter(parameter_name)))
        inputs = family.inputs(family.one_image)
        assert relative(model(**inputs).logits, plain(**inputs).logits) < 1e-4


def dequantize(parameter):
    """From the definition: (value - 8) * scale + zero."""
    if parameter.dim() == 3:
        return torch.stack([dequantize(parameter[expert]) for expert in range(len(parameter))])
    plain = parameter.to_plain()
    values = torch.stack([plain & 15, plain >> 4], -1).flatten(1)
    scale, zero = parameter.scale_and_zero.float().transpose(0, 1)[..., None, :].unbind(-1)
    return ((values.unflatten(1, (scale.shape[1], -1)).float() - 8) * scale + zero).flatten(1)


@pytest.mark.parametrize("name", VL_FAMILIES)
def test_the_model_without_its_head(families, name):
    """Its names have no prefix; the same layers are chosen."""
    model = AutoModel.from_pretrained(
        families[name].original, dtype=torch.bfloat16, quantization_config=int4_config(32, "cpu")
    )
    assert {f"model.{layer}" for layer in quantized(model)} == expected_names(name)


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_saved_and_loaded(families, int4, name, tmp_path):
    model, inputs = int4(name), families[name].inputs(0).to("cpu", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert quantized(loaded) == quantized(model)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded.eval()(**inputs).logits)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["group_size"] == 32


def test_saved_weights_are_plain_pairs(int4, tmp_path):
    """The order of a processor's kernels stays out of files, so that another processor can read them."""
    model = int4("vl")
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")[f"{LAYERS}.0.self_attn.q_proj._weight_qdata"]
    weight = model.get_parameter(f"{LAYERS}.0.self_attn.q_proj.weight")
    assert torch.equal(stored, weight.to_plain())
    assert not torch.equal(stored, weight.qdata)


def test_a_saved_model_in_another_type(int4, families, tmp_path, relative):
    int4("vl").save_pretrained(tmp_path)
    inputs = families["vl"].inputs(0)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        found = model(**inputs).logits
        expected = int4("vl")(**inputs.to("cpu", dtype=torch.bfloat16)).logits
    assert found.dtype == torch.float32
    # What rounding to bfloat16 on the way amounts to; 0.066 was measured.
    assert relative(expected, found) < 0.1


def test_group_sizes_fall_back():
    """Dense layers of the published VL2 tiny and small are 6848 and 10944 wide; 128 divides neither."""
    assert [group_size_for((16, width), 128) for width in (4096, 6848, 10944, 896, 160, 176)] == [
        *(128, 64, 64, 128, 32, None)
    ]
    assert group_size_for((16, 4096), 64) == 64
    assert group_size_for((40, 4096), 128) is None


def test_the_report(int4):
    report = quantization_report(int4("vl2_mla"))
    assert {layer.name for layer in report.quantized} == expected_names("vl2_mla")
    kept = {layer.name.partition("layers.1.")[2] for layer in report.kept if "layers.1." in layer.name}
    assert kept == {
        "self_attn.kv_a_proj_with_mqa.weight",
        "self_attn.kv_b_proj.weight",
        "mlp.experts.down_proj",
        "mlp.shared_experts.down_proj.weight",
    }
    experts = next(layer for layer in report.layers if layer.name.endswith("1.mlp.experts.gate_up_proj"))
    # Half a byte for each of 8 x 48 x 64 weights, and 4 bytes for each of its groups of 32.
    assert (experts.num_bytes, experts.unquantized_bytes) == (8 * 48 * 64 // 2 + 8 * 48 * 2 * 4, 8 * 48 * 64 * 2)
    assert int4("vl2_mla").get_memory_footprint(return_buffers=False) == report.num_bytes
    assert report.ratio == pytest.approx((4 + 32 / 32) / 16)
    lines = str(report).splitlines()
    assert "model.language_model.layers.*.mlp.experts.gate_up_proj" in str(report)
    assert lines[-1].startswith(f"{len(report.quantized)} layers quantized to 0.31 of their size")


def test_the_report_of_a_model_without_4_bits(vl):
    report = quantization_report(vl.model)
    assert (report.quantized, report.ratio) == ((), 1.0)
    assert report.num_bytes == sum(parameter.nbytes for parameter in vl.model.parameters())


def test_our_config_for_towers_too(families, relative):
    """Of original files one tensor becomes three of the tower's; each of them is quantized."""
    config = Int4Config(32, "cpu", modules_to_not_convert=["lm_head"])
    inputs = families["vl"].inputs(0)
    logits = []
    for folder in (families["vl"].original, families["vl"].converted):
        model, info = load(
            folder, dtype=torch.float32, quantization_config=config, output_loading_info=True, evaluate=False
        )
        assert not any(info.values()), info
        assert any("vision_model" in name and "k_proj" in name for name in quantized(model))
        with torch.no_grad():
            logits.append(model.eval()(**inputs).logits)
    assert torch.equal(*logits)


def test_the_device_decides_the_recipe():
    config = int4_config(device="cpu")
    assert isinstance(config, TorchAoConfig)
    assert type(config.quant_type).__name__ == "PrototypeInt4WeightOnlyConfig"
    recipe = int4_config(device="cuda:0").quant_type
    assert (type(recipe).__name__, recipe.group_size) == ("Int4WeightOnlyConfig", 128)
    assert recipe.int4_packing_format == "tile_packed_to_4d"


def test_experts_one_by_one(families, int4):
    """In the plain loop too; grouped products of 4-bit weights do not exist."""
    family = families["vl2_mha"]
    inputs = family.inputs(0).to("cpu", dtype=torch.bfloat16)
    model = load(family.original, experts_implementation={"text_config": "eager"})
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, int4("vl2_mha")(**inputs).logits)
    with pytest.raises(ValueError, match=r"='batched_mm'\. 4-bit experts are multiplied one by"):
        load(family.original, experts_implementation={"text_config": "batched_mm"})
    with pytest.raises(TypeError, match="one by one"):
        int4("vl2_mha").get_parameter(f"{LAYERS}.1.mlp.experts.gate_up_proj")[torch.tensor([0, 1])]


@pytest.mark.parametrize("tokens", [1, 5, 200])
def test_experts_with_few_and_many_tokens(tokens):
    """Also where the widths of one of the two parameters alone can be quantized."""
    torch.manual_seed(0)
    for hidden, inner in ((64, 64), (64, 48), (48, 64)):
        config = DeepseekMoeConfig(
            hidden_size=hidden, moe_intermediate_size=inner, n_routed_experts=4, num_experts_per_tok=2
        )
        config._experts_implementation = BY_DEVICE
        experts = DeepseekMoeExperts(config)
        with torch.no_grad():
            for parameter in experts.parameters():
                parameter.normal_(std=0.1)
            inputs = torch.randn(tokens, hidden)
            weights, chosen = torch.rand(tokens, 4).topk(2)
            packed = copy.deepcopy(experts)
            for name, parameter in experts.named_parameters():
                if group_size_for(tuple(parameter.shape), 32):
                    pieces = [Int4CpuWeight.quantize(expert, 32) for expert in parameter]
                    packed._parameters[name] = torch.nn.Parameter(Int4Experts.stack(pieces), requires_grad=False)
                    parameter.copy_(dequantize(packed._parameters[name]))
            expected, found = (module(inputs, chosen, weights) for module in (experts, packed))
        assert torch.allclose(found, expected, atol=1e-4)
        assert any(hasattr(parameter, "qdata") for parameter in packed.parameters())


@pytest.mark.parametrize("size", ["deepseek-vl-7b-chat", "deepseek-vl2-tiny", "deepseek-vl2-small", "deepseek-vl2"])
def test_the_layers_of_published_sizes(size):
    """Exactly these, with these groups, judged by the shapes alone."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(CONFIGS / size))
    quantizer = Int4Quantizer(int4_config(device="cpu"), pre_quantized=False)
    quantizer.preprocess_model(model)
    groups = {
        name.partition("layers.")[2].partition(".")[2]: group_size_for(tuple(parameter.shape), 128)
        for name, parameter in model.named_parameters()
        if quantizer.param_needs_quantization(model, name)
    }
    attention = [f"self_attn.{part}_proj.weight" for part in ("qo" if size in WITH_LATENTS else "qkvo")]
    attention += ["self_attn.kv_a_proj_with_mqa.weight"] if size in WITH_LATENTS else []
    dense = [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    expected = dict.fromkeys(attention + dense, 128)
    if size.startswith("deepseek-vl2"):
        shared = [f"mlp.shared_experts.{part}_proj.weight" for part in ("gate", "up", "down")]
        expected |= dict.fromkeys([*shared, "mlp.experts.gate_up_proj", "mlp.experts.down_proj"], 128)
    if size in ("deepseek-vl2-tiny", "deepseek-vl2-small"):
        expected["mlp.down_proj.weight"] = 64  # 6848 and 10944 wide
    assert groups == expected


def test_devices_are_filled_by_what_4_bits_take():
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(CONFIGS / "deepseek-vl2-tiny"))
    quantizer = Int4Quantizer(int4_config(device="cpu"), pre_quantized=True)
    quantizer.preprocess_model(model)
    bytes_of = {
        name: quantizer.param_element_size(model, name, parameter)
        for name, parameter in model.to(torch.bfloat16).named_parameters()
    }
    layer = "model.language_model.layers.1."
    assert bytes_of[f"{layer}self_attn.q_proj.weight"] == 0.5
    assert bytes_of[f"{layer}mlp.experts.gate_up_proj"] == 0.5
    assert bytes_of[f"{layer}mlp.gate.weight"] == 2
    assert bytes_of["lm_head.weight"] == 2


def test_4_bit_weights_do_not_learn(int4):
    assert not any(parameter.requires_grad for parameter in int4("vl2_mha").parameters() if hasattr(parameter, "qdata"))


def test_prepacking_what_kept_its_type(families, relative):
    """Towers and lm_head are packed; 4-bit layers stay as they are. In the type that the processor is fast in."""
    family, dtype = families["vl"], fast_dtype("cpu")
    inputs = family.inputs(family.one_image).to("cpu", dtype=dtype)
    model = load(family.original, dtype=dtype)
    with torch.no_grad():
        expected = model(**inputs).logits
        prepack_weights(model)
        assert relative(model(**inputs).logits, expected.float()) < 0.05
    assert quantized(model) == expected_names("vl")
    assert isinstance(model.lm_head, PrepackedLinear)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", FAMILIES)
def test_on_a_gpu(families, name, tmp_path):
    family = families[name]
    model = load(family.original, quantization_config=int4_config(32, "cuda"), device_map="cuda")
    assert quantized(model) == expected_names(name)
    inputs = family.inputs(0).to("cuda", dtype=torch.bfloat16)
    whole = AutoModelForImageTextToText.from_pretrained(family.original, dtype=torch.bfloat16, device_map="cuda")
    with torch.no_grad():
        found, expected = model(**inputs).logits, whole(**inputs).logits
        assert 0.1 < ((found - expected).norm() / expected.norm()).item() < 0.38
        model.save_pretrained(tmp_path)
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map="cuda").eval()
        assert torch.equal(loaded(**inputs).logits, found)
