"""Saving and loading, whole and in parts, for every family."""

import importlib.util

import pytest
import torch
from accelerate import cpu_offload
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from family import CONTRACT_FAMILIES

# float32, another order of the same sums: measured 9e-7 relative.
TOLERANCE = 1e-5
DRAWN_IN_LAYERS = ("mlp.gate.weight", "experts.gate_up_proj", "experts.down_proj")
DRAWN_HERE = ("model.aligner", "model.high_res", "model.projector", "model.image_newline", "model.view_sep", "lm_head")


@pytest.fixture(scope="module", params=CONTRACT_FAMILIES)
def family(request, families):
    return families[request.param]


@pytest.fixture(scope="module")
def converted(family):
    return family.converted


def weight_names(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


def test_save_and_load_bit_for_bit(converted, model, tmp_path):
    model.save_pretrained(tmp_path)
    assert weight_names(tmp_path) == weight_names(converted)
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.fixture
def long_names(family, converted, tmp_path):
    """The checkpoint under the names of the published `deepseek-community` files."""
    if family.is_ocr:
        pytest.skip("no such files of DeepSeek-OCR were published")
    for file in converted.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    prefix = "model.vision_model."
    renamed = {name.replace(prefix, prefix + "vision_model."): tensor for name, tensor in tensors.items()}
    assert set(renamed) != set(tensors)
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_published_long_names_are_read_and_short_ones_written(long_names, converted, model, tmp_path):
    loaded, info = AutoModelForImageTextToText.from_pretrained(
        long_names, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    loaded.save_pretrained(tmp_path / "saved")
    assert weight_names(tmp_path / "saved") == weight_names(converted)


def test_base_model_alone(converted, model, inputs, tmp_path):
    base, info = AutoModel.from_pretrained(converted, dtype=torch.float32, output_loading_info=True)
    assert type(base) is type(model.model)
    assert not any(info.values()), info
    base.save_pretrained(tmp_path)
    assert not any(name.startswith("model.") for name in weight_names(tmp_path))
    with_head, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {"lm_head.weight"}
    with torch.no_grad():
        states = [m(**inputs).last_hidden_state for m in (base, model.model, with_head.model)]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_shards(family, model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_split_over_memory_and_disk(model, inputs, tmp_path, converted, relative):
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    split = AutoModelForImageTextToText.from_pretrained(
        converted, dtype=torch.float32, device_map="auto", max_memory={"cpu": size // 2}, offload_folder=str(tmp_path)
    )
    assert {str(device) for device in split.hf_device_map.values()} == {"cpu", "disk"}
    assert relative(split(**inputs).logits, model(**inputs).logits) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_generating_from_disk(family, tmp_path, share):
    """With next to nothing in memory even the model's own parameters lie on the disk."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in family.model.parameters())
    limits = {"cpu": int(share * size)} if share > 0.1 else {"cpu": 0}
    split = AutoModelForImageTextToText.from_pretrained(
        family.converted, dtype=torch.float32, device_map="auto", max_memory=limits, offload_folder=str(tmp_path)
    )
    expected = family.model.generate(**family.inputs(0), max_new_tokens=4, do_sample=False)
    assert torch.equal(split.generate(**family.inputs(0), max_new_tokens=4, do_sample=False), expected)


@torch.no_grad()
def test_generating_from_offloaded_memory(family):
    offloaded = cpu_offload(family.load(), execution_device=torch.device("cpu"))
    expected = family.model.generate(**family.inputs(0), max_new_tokens=4, do_sample=False)
    assert torch.equal(offloaded.generate(**family.inputs(0), max_new_tokens=4, do_sample=False), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, "auto", "bfloat16"])
def test_types(family, converted, dtype):
    model = AutoModelForImageTextToText.from_pretrained(converted, dtype=dtype)
    expected = {"auto": family.dtype, "bfloat16": torch.bfloat16}.get(dtype, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32


@torch.no_grad()
def test_attention_per_part(model, inputs, converted, relative):
    mixed = AutoModelForImageTextToText.from_pretrained(
        converted, dtype=torch.float32, attn_implementation={"text_config": "eager", "vision_config": "sdpa"}
    )
    assert mixed.config.text_config._attn_implementation == "eager"
    assert mixed.config.vision_config._attn_implementation == "sdpa"
    assert relative(mixed(**inputs).logits, model(**inputs).logits) <= TOLERANCE


def test_generation_config_is_saved_and_loaded(family, tmp_path):
    model = family.load()
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.generation_config.max_new_tokens == 7
    assert loaded.generation_config.eos_token_id == family.processor.tokenizer.eos_token_id


def test_weights_that_a_file_lacks_are_drawn_as_in_a_new_model(family, tmp_path):
    """Nothing may be left as it happens to lie in memory."""
    config = family.model.config
    config.save_pretrained(tmp_path)
    save_file({}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    drawn = []
    for make in (
        *(lambda: AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32, strict=False),) * 2,
        lambda: AutoModelForImageTextToText.from_config(config, dtype=torch.float32),
    ):
        torch.manual_seed(0)
        drawn.append(make().state_dict())
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())
    for name, value in drawn[2].items():
        # The rest is drawn by transformers' parts.
        if name.startswith(DRAWN_HERE) or name.endswith(DRAWN_IN_LAYERS):
            expected = value.std(correction=0).item()
            assert drawn[0][name].std(correction=0).item() == pytest.approx(expected, rel=0.5, abs=1e-6), name


@pytest.mark.gpu
def test_flash_attention(family, relative):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if importlib.util.find_spec("flash_attn") is None:
        pytest.skip("flash-attn is not installed")
    inputs, logits = family.inputs(0).to("cuda", torch.bfloat16), []
    for attention in ("sdpa", "flash_attention_2"):
        model = family.load(torch.bfloat16).to("cuda")
        model.set_attn_implementation(attention)
        with torch.no_grad():
            logits.append(model(**inputs).logits.float())
    assert relative(logits[1], logits[0]) <= 0.08


def test_only_loading_a_model_without_its_head_leaves_a_head_aside(family):
    """Engines that load weights by themselves throw away what the list names, in a model with a head, too."""
    without, whole = AutoModel.from_pretrained(family.converted), family.load()
    made = type(whole)(whole.config)
    lists = [model._keys_to_ignore_on_load_unexpected for model in (without, whole, whole.model, made, made.model)]
    assert [any("lm_head" in pattern for pattern in patterns) for patterns in lists] == [True, *[False] * 4]
    assert all(cls._keys_to_ignore_on_load_unexpected is None for cls in (type(without), type(whole)))


@pytest.mark.parametrize("headless", [False, True])
def test_subclasses_read_originals_as_well(family, headless):
    config = AutoConfig.from_pretrained(family.original)
    base = type(family.model.model if headless else family.model)
    model, report = type("Mine", (base,), {}).from_pretrained(
        family.original, config=config, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = (family.model.model if headless else family.model).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
