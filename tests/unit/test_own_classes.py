"""Checkpoints opened with a family's own classes rather than the Auto classes."""

import json
import shutil

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor

import deepseek_vl_hf
from family import FAMILIES

NAMES = {
    "vl": "DeepseekVL",
    "vl_hybrid": "DeepseekVLHybrid",
    "vl2_mha": "DeepseekVL2",
    "deepseek_ocr": "DeepseekOCR",
}
KINDS = ("Config", "ImageProcessor", "Processor")
PAIRS = [(one, other) for one in FAMILIES for other in FAMILIES if one != other]


def own(family, kind):
    return getattr(deepseek_vl_hf, NAMES[family] + kind)


@pytest.mark.parametrize("kind", KINDS)
def test_originals_open_as_the_auto_classes_open_them(family, kind):
    # DeepSeek-VL2's originals have no file that AutoImageProcessor reads.
    whole = AutoProcessor.from_pretrained(family.original)
    expected = {"Processor": whole, "ImageProcessor": whole.image_processor}.get(kind)
    expected = expected or AutoConfig.from_pretrained(family.original)
    found = own(family.name, kind).from_pretrained(family.original)
    assert type(found) is type(expected)
    assert found.to_dict() == expected.to_dict()


def test_a_processor_of_an_original_gives_the_same_inputs(family):
    prompt, picture = f"{family.processor.image_token}Hi", Image.new("RGB", (50, 30), "red")
    found = own(family.name, "Processor").from_pretrained(str(family.original), padding_side="right")
    assert found.tokenizer.padding_side == "right"
    expected = family.processor(text=prompt, images=picture)
    for name, value in found(text=prompt, images=picture).items():
        assert torch.equal(value, expected[name])


def test_models_of_originals(family):
    model = own(family.name, "Model").from_pretrained(family.original, dtype=torch.float32)
    expected = family.model.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_subclasses_and_settings(family, kind):
    base = own(family.name, kind)
    found = type("Mine", (base,), {}).from_pretrained(family.original)
    assert type(found).__name__ == "Mine"
    assert isinstance(found, base)


def test_settings_replace_those_of_the_original(family):
    assert own(family.name, "ImageProcessor").from_pretrained(family.original, do_normalize=False).do_normalize is False
    config, rest = own(family.name, "Config").from_pretrained(
        family.original, image_token_id=7, return_unused_kwargs=True
    )
    assert (config.image_token_id, rest) == (7, {})


@pytest.mark.parametrize("kind", [*KINDS, "ForConditionalGeneration"])
@pytest.mark.parametrize(("of", "opened"), PAIRS)
def test_another_familys_original_is_refused(families, of, opened, kind):
    message = f"an original checkpoint of {NAMES[of]}, which {NAMES[opened]}.* does not read. Use {NAMES[of]}"
    with pytest.raises(ValueError, match=message):
        own(opened, kind).from_pretrained(families[of].original)


@pytest.mark.parametrize("kind", ["Processor", "ImageProcessor"])
@pytest.mark.parametrize(("of", "opened"), PAIRS)
def test_another_familys_converted_checkpoint_is_refused(families, tmp_path, of, opened, kind):
    with pytest.raises(ValueError, match=rf"a checkpoint of {NAMES[of]}, which {NAMES[opened]}{kind} does not read"):
        own(opened, kind).from_pretrained(families[of].converted)
    families[of].processor.save_pretrained(tmp_path)  # without the model's config.json
    with pytest.raises(ValueError, match=rf"a checkpoint of {NAMES[of]}, which {NAMES[opened]}{kind} does not read"):
        own(opened, kind).from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["Processor", "ImageProcessor"])
def test_another_models_files_are_refused(family, tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Qwen2VLImageProcessorFast"})
    )
    with pytest.raises(
        ValueError,
        match=f"model_type 'qwen2_vl'; {NAMES[family.name]}{kind} expected '{family.model.config.model_type}'",
    ):
        own(family.name, kind).from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["Processor", "ImageProcessor"])
def test_a_familys_processor_in_a_model_of_ones_own(family, tmp_path, kind):
    """The class that the files name counts, not the model type; nor does the backend in its name."""
    folder = shutil.copytree(family.converted, tmp_path / "mine", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "config.json").write_text(json.dumps({"model_type": "my_own"}))
    found = own(family.name, kind).from_pretrained(folder)
    assert type(found) is own(family.name, kind)


def test_without_registration_classes_read_their_own_format_alone(hybrid, unregistered):
    with pytest.raises(ValueError, match="model_type 'multi_modality'; expected 'deepseek_vl_hybrid'"):
        own("vl_hybrid", "Config").from_pretrained(hybrid.original)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_not_there(kind, tmp_path):
    for absent in ("no/such", str(tmp_path / "not" / "there")):
        with pytest.raises(OSError, match=r"couldn't connect|is no folder|Can't load"):
            own("vl", kind).from_pretrained(absent)
