"""Which class each Auto class really returns: with the package, after taking it back, and again."""

import copy
import json

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, pipeline
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _LazyAutoMapping
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

import deepseek_vl_hf
from deepseek_vl_hf.checkpoints.loading.direct import DeepseekVLV2Config
from deepseek_vl_hf.models.families import FAMILIES
from family import CONTRACT_FAMILIES, VL_FAMILIES, relative_error

# What each Auto class returns, as the family's name for it.
LOADERS = {
    "AutoConfig": "Config",
    "AutoModel": "Model",
    "AutoModelForImageTextToText": "ForConditionalGeneration",
    "AutoModelForMultimodalLM": "ForConditionalGeneration",
    "AutoProcessor": "Processor",
    "AutoImageProcessor": "ImageProcessor",
}
PREFIXES = {
    "vl": "DeepseekVL",
    "vl_hybrid": "DeepseekVLHybrid",
    "vl2_mha": "DeepseekVL2",
    "deepseek_ocr": "DeepseekOCR",
}


def loaded_classes(folder) -> dict[str, str]:
    classes = {name: type(getattr(transformers, name).from_pretrained(folder)) for name in LOADERS}
    pipe = pipeline("image-text-to-text", model=str(folder))
    classes |= {"pipeline model": type(pipe.model), "pipeline processor": type(pipe.processor)}
    return {name: f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for name, cls in classes.items()}


def expected_classes(family, package: str) -> dict[str, str]:
    names = LOADERS | {"pipeline model": "ForConditionalGeneration", "pipeline processor": "Processor"}
    classes = {name: f"{package}.{PREFIXES[family.name]}{suffix}" for name, suffix in names.items()}
    if package == "transformers":
        classes["AutoImageProcessor"] += "Pil"  # without torchvision transformers takes its Pillow variant
    return classes


def test_with_the_package(family):
    assert loaded_classes(family.converted) == expected_classes(family, "deepseek_vl_hf")


@pytest.mark.parametrize("family", VL_FAMILIES, indirect=True, scope="module")  # transformers has no DeepSeek-VL2
def test_after_unregister_and_again_after_register(family):
    deepseek_vl_hf.unregister()
    try:
        assert loaded_classes(family.converted) == expected_classes(family, "transformers")
    finally:
        deepseek_vl_hf.register()
    assert loaded_classes(family.converted) == expected_classes(family, "deepseek_vl_hf")


def snapshot():
    mappings = [value for value in vars(modeling_auto).values() if isinstance(value, _LazyAutoMapping)]
    return (
        [list(mapping._extra_content.items()) for mapping in mappings],
        list(PROCESSOR_MAPPING_NAMES.items()),
        list(IMAGE_PROCESSOR_MAPPING_NAMES.items()),
        list(transformers.CONFIG_MAPPING._extra_content.items()),
    )


def test_unregister_restores_the_tables_in_their_order(unregistered):
    before = snapshot()
    deepseek_vl_hf.register()
    assert snapshot() != before
    deepseek_vl_hf.unregister()
    assert snapshot() == before


@torch.no_grad()
@pytest.mark.parametrize("name", CONTRACT_FAMILIES)
def test_models_go_on_without_registration(families, name):
    """As the docstring of `unregister` says."""
    family, ids = families[name], torch.arange(5, 12)[None]
    expected = family.model(input_ids=ids).logits
    kept, config = family.load(), copy.deepcopy(family.model.config)
    deepseek_vl_hf.unregister()
    try:
        kept.set_attn_implementation("sdpa")
        if family.has_experts:
            kept.set_experts_implementation("grouped_mm")
        anew = type(kept)(config).eval()  # the config names what is gone
        anew.load_state_dict(kept.state_dict())
        for model in (kept, anew):
            assert relative_error(model(input_ids=ids).logits, expected) < 1e-5  # measured 1e-6
    finally:
        deepseek_vl_hf.register()


def test_unregister_keeps_what_others_registered(unregistered):
    class OtherConfig(transformers.PreTrainedConfig):
        model_type = "some_other_package"

    deepseek_vl_hf.register()
    AutoConfig.register("some_other_package", OtherConfig)
    deepseek_vl_hf.unregister()
    assert transformers.CONFIG_MAPPING._extra_content.pop("some_other_package") is OtherConfig


def test_register_twice_is_register_once(unregistered):
    deepseek_vl_hf.register()
    once = snapshot()
    deepseek_vl_hf.register()
    assert snapshot() == once


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.config.model_type)
def test_no_table_leads_from_our_config_to_transformers_classes(family):
    for name, mapping in vars(modeling_auto).items():
        if isinstance(mapping, _LazyAutoMapping) and family.config in mapping:
            assert mapping[family.config].__module__.startswith("deepseek_vl_hf."), name


@pytest.mark.parametrize("prefix", PREFIXES.values())
@pytest.mark.parametrize("suffix", ["", "Fast", "Pil"])
@pytest.mark.parametrize("backend", [None, "pil", "torchvision"])
def test_image_processor_names_that_files_carry(tmp_path, prefix, suffix, backend):
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": f"{prefix}ImageProcessor{suffix}", "min_size": 15})
    )
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(loaded) is getattr(deepseek_vl_hf, f"{prefix}ImageProcessor")
    assert loaded.min_size == 15


def test_trust_in_one_checkpoint_says_nothing_of_another(tmp_path):
    """A config that is read while another checkpoint, whose code is trusted, is opened."""
    other = {"model_type": "deepseek_vl_v2", "architectures": ["Other"], "auto_map": {"AutoConfig": "code.Config"}}
    refused = []

    class Nested(transformers.PreTrainedConfig):
        model_type = "nested"

        @classmethod
        def from_dict(cls, config_dict, **kwargs):
            with pytest.raises(ValueError, match=r"is of Other, .* brings no code of its own") as error:
                DeepseekVLV2Config.from_dict(other)
            refused.append(error)
            return super().from_dict(config_dict, **kwargs)

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nested"}))
    AutoConfig.register("nested", Nested)
    try:
        AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    finally:
        transformers.CONFIG_MAPPING._extra_content.pop("nested")
    assert refused
