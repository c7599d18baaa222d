"""Original checkpoints opened with the Auto classes, without conversion: the same as converted ones in everything."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from editing import change_all, edit, remove_weights, tensors_of
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    TokenizersBackend,
    pipeline,
)

import deepseek_vl_hf
from deepseek_vl_hf import DeepseekVLConfig, DeepseekVLForConditionalGeneration
from deepseek_vl_hf.checkpoints.layouts.rules import Concatenate
from deepseek_vl_hf.checkpoints.loading.direct import MultiModalityConfig
from deepseek_vl_hf.checkpoints.loading.weight_mapping import weight_mapping
from forked import python

FIXTURES = Path(__file__).parents[1] / "fixtures"


def run(folder, conversations):
    """Ids, pixels, logits and greedy tokens of each conversation, in float32."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    results = []
    for conversation in conversations:
        inputs = processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**inputs).logits
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        results.append({**inputs, "logits": logits, "tokens": tokens})
    return results


def test_direct_converted_and_there_and_back_are_identical(family, restored):
    direct = run(family.original, family.conversations)
    assert len(direct) >= 4
    for folder in (family.converted, restored[family.name]):
        for found, expected in zip(run(folder, family.conversations), direct, strict=True):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_auto_class_gives_the_familys_class(family):
    expected = type(family.model).__name__.removesuffix("ForConditionalGeneration")
    found = {
        auto_class: type(auto_class.from_pretrained(family.original))
        for auto_class in (AutoConfig, AutoProcessor, AutoModel, AutoModelForImageTextToText)
    }
    assert [cls.__name__ for cls in found.values()] == [
        f"{expected}{suffix}" for suffix in ("Config", "Processor", "Model", "ForConditionalGeneration")
    ]
    assert all(cls.__module__.startswith("deepseek_vl_hf.models") for cls in found.values())
    if family.has_experts:  # there is no file that it reads
        with pytest.raises(OSError, match=r"preprocessor_config\.json"):
            AutoImageProcessor.from_pretrained(family.original)
    else:
        assert type(AutoImageProcessor.from_pretrained(family.original)) is type(family.processor.image_processor)
    # transformers' own class, so that what is saved opens everywhere.
    assert type(AutoTokenizer.from_pretrained(family.original)) is TokenizersBackend


def test_configs_are_those_of_the_converted_checkpoint(family):
    configs = [AutoConfig.from_pretrained(folder).to_dict() for folder in (family.original, family.converted)]
    for config in configs:
        config.pop("_name_or_path")
    assert configs[0] == configs[1]


def test_processors_are_those_of_the_converted_checkpoint(family):
    direct, converted = (AutoProcessor.from_pretrained(folder) for folder in (family.original, family.converted))
    assert direct.image_processor.to_dict() == converted.image_processor.to_dict()
    assert direct.chat_template == converted.chat_template
    assert direct.to_dict() == converted.to_dict()
    tokenizers = (direct.tokenizer, converted.tokenizer, AutoTokenizer.from_pretrained(family.original))
    assert len({tokenizer.backend_tokenizer.to_str() for tokenizer in tokenizers}) == 1
    assert tokenizers[0].name_or_path == tokenizers[2].name_or_path == str(family.original)
    for name in (
        "padding_side",
        "model_max_length",
        "pad_token_id",
        "eos_token_id",
        "image_token",
        "model_input_names",
    ):
        assert len({str(getattr(tokenizer, name)) for tokenizer in tokenizers}) == 1, name


def test_nothing_is_missing_or_left_over(family):
    for auto_class in (AutoModelForImageTextToText, AutoModel):
        _, info = auto_class.from_pretrained(family.original, output_loading_info=True)
        assert not any(info.values()), info


def test_answers_end(family):
    generation = AutoModelForImageTextToText.from_pretrained(family.original).generation_config
    pad = 602 if family.has_experts else 601
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (600, 601, pad)


def test_pipeline(family):
    pipe = pipeline("image-text-to-text", model=str(family.original), dtype="float32")
    content = [{"type": "image", "path": str(FIXTURES / "images" / "tall.png")}, {"type": "text", "text": "What?"}]
    answer = pipe(text=[{"role": "user", "content": content}], max_new_tokens=4, return_full_text=False)
    converted = pipeline("image-text-to-text", model=str(family.converted), dtype="float32")
    assert answer == converted(text=[{"role": "user", "content": content}], max_new_tokens=4, return_full_text=False)


def test_what_is_saved_has_the_transformers_layout(family, tmp_path):
    """And opens in plain transformers, which has no DeepSeek-VL2."""
    AutoModelForImageTextToText.from_pretrained(family.original).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(family.original).save_pretrained(tmp_path)
    saved, converted = tensors_of(tmp_path), tensors_of(family.converted)
    assert saved.keys() == converted.keys()
    assert all(torch.equal(saved[name], converted[name]) for name in converted)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == AutoConfig.from_pretrained(family.converted).model_type
    if family.has_experts:
        return
    program = f"""
from transformers import AutoModelForImageTextToText, AutoTokenizer
model, info = AutoModelForImageTextToText.from_pretrained({str(tmp_path)!r}, output_loading_info=True)
assert type(model).__module__.startswith("transformers."), type(model)
assert not any(info.values()), info
print(AutoTokenizer.from_pretrained({str(tmp_path)!r})("a")["input_ids"][0], model.generation_config.eos_token_id)
"""
    result = python("-c", program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["600", "601"]


def test_saving_the_original_layout_is_for_the_converter(original, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(original)
    with pytest.raises(ValueError, match="deepseek-vl convert --to original"):
        model.save_pretrained(tmp_path, save_original_format=True)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_replace_the_checkpoints(original, converted):
    assert AutoTokenizer.from_pretrained(original, padding_side="right").padding_side == "right"
    settings = {"min_size": 20, "other": 1, "return_unused_kwargs": True}
    found, expected = (AutoImageProcessor.from_pretrained(folder, **settings) for folder in (original, converted))
    assert found[0].to_dict() == expected[0].to_dict()
    assert found[0].min_size == 20
    assert found[1] == expected[1]
    processor = AutoProcessor.from_pretrained(original, chat_template="{{ 1 }}", padding_side="right", min_size=20)
    found = (processor.chat_template, processor.tokenizer.padding_side, processor.image_processor.min_size)
    assert found == ("{{ 1 }}", "right", 20)


def test_types_and_offloading(original, tmp_path):
    assert AutoModelForImageTextToText.from_pretrained(original, dtype=torch.bfloat16).dtype == torch.bfloat16
    layers = {"model.vision_model": "cpu", "model.aligner": "cpu", "model.language_model": "disk", "lm_head": "disk"}
    offloaded = AutoModelForImageTextToText.from_pretrained(
        original, device_map=layers, offload_folder=tmp_path, dtype=torch.float32
    )
    whole = AutoModelForImageTextToText.from_pretrained(original, dtype=torch.float32)
    ids = torch.tensor([[600, 5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(offloaded(input_ids=ids).logits, whole(input_ids=ids).logits)


def test_pickles(source, original):
    tensors = tensors_of(source)
    remove_weights(source)
    torch.save(tensors, source / "pytorch_model.bin")
    found, expected = (
        AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in (source, original)
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_weights_of_a_wrong_shape(source):
    change_all(source, lambda name, tensor: tensor[:7] if name == "aligner.layers.2.weight" else tensor)
    with pytest.raises(ValueError, match=r"aligner.linear2.weight: found \[7, .* ignore_mismatched_sizes"):
        AutoModelForImageTextToText.from_pretrained(source)


def test_a_classes_own_loader_opens_originals(original):
    assert isinstance(DeepseekVLConfig.from_pretrained(original), DeepseekVLConfig)
    model = DeepseekVLForConditionalGeneration.from_pretrained(original)
    assert type(model) is DeepseekVLForConditionalGeneration


def test_published_config_without_files():
    config = json.loads((FIXTURES / "configs" / "deepseek-vl-7b-chat" / "config.json").read_text())
    mapped = MultiModalityConfig.from_dict(config)
    assert type(mapped).__name__ == "DeepseekVLHybridConfig"
    assert (mapped.image_token_id, mapped.text_config.eos_token_id) == (100015, 100001)


def test_small_vocabulary_without_files(source):
    (source / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="vocabulary of 640 is smaller than the published one"):
        AutoConfig.from_pretrained(source)
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer\.json"):
        AutoTokenizer.from_pretrained(source)


def test_the_model_needs_no_files_of_the_processor(source):
    for name in ("preprocessor_config.json", "processor_config.json"):
        (source / name).unlink()
    assert AutoModelForImageTextToText.from_pretrained(source).config.image_token_id == 602
    assert AutoTokenizer.from_pretrained(source)("a")["input_ids"][0] == 600


def test_a_value_of_a_wrong_kind_without_files():
    config = json.loads((FIXTURES / "configs" / "deepseek-vl-7b-chat" / "config.json").read_text())
    config["language_config"]["vocab_size"] = None
    with pytest.raises(ValueError, match=r"config\.json holds a value of another kind"):
        MultiModalityConfig.from_dict(config)


def test_damaged_files_are_not_hidden_by_a_bare_tokenizer(source):
    edit(source / "processor_config.json", lambda content: content.update(num_image_tokens=100))
    with pytest.raises(ValueError, match="num_image_tokens is 100; expected 576"):
        AutoProcessor.from_pretrained(source)
    edit(source / "config.json", lambda config: config["vision_config"].update(cls="ResNet"))
    for auto_class in (AutoConfig, AutoProcessor, AutoImageProcessor, AutoTokenizer, AutoModelForImageTextToText):
        with pytest.raises(ValueError, match="vision class 'ResNet'"):
            auto_class.from_pretrained(source)


def tokenizer_without_us(folder):
    """The class that transformers gives by itself, which depends on its release."""
    deepseek_vl_hf.unregister()
    try:
        return type(AutoTokenizer.from_pretrained(folder))
    finally:
        deepseek_vl_hf.register()


def test_janus_is_refused_by_name_and_keeps_its_tokenizer(source):
    edit(source / "config.json", lambda config: config.update(gen_vision_config={}))
    for auto_class in (AutoConfig, AutoProcessor, AutoImageProcessor, AutoModelForImageTextToText):
        with pytest.raises(ValueError, match=r"is of Janus: .*deepseek-community Janus"):
            auto_class.from_pretrained(source)
    assert type(AutoTokenizer.from_pretrained(source)) is tokenizer_without_us(source)


def test_janus_flow_keeps_its_tokenizer(source):
    """Its config has no section of the vision tower, and other names for those of drawing."""

    def change(config):
        config.pop("vision_config")
        config["vision_gen_enc_config"] = {}

    edit(source / "config.json", change)
    assert type(AutoTokenizer.from_pretrained(source)) is tokenizer_without_us(source)
    with pytest.raises(ValueError, match="is of Janus"):
        AutoConfig.from_pretrained(source)


def test_positions_of_a_wrong_shape(source):
    """Conversion refuses them, too."""
    name = "vision_model.vision_tower.pos_embed"
    change_all(source, lambda found, tensor: tensor[0].clone() if found == name else tensor)
    with pytest.raises(ValueError, match=r"position_embedding.weight \(ValueError: Expected the shape \[1, "):
        AutoModelForImageTextToText.from_pretrained(source)


@pytest.fixture
def repository(original, tmp_path):
    """The original checkpoint as the Hub's cache holds it; gives the cache's folder."""
    folder = tmp_path / "models--someone--deepseek-vl"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    shutil.copytree(original, folder / "snapshots" / commit)
    return tmp_path


def test_a_hub_repository(repository, hybrid):
    """In it, another checkpoint at another revision and in a subfolder, which is never read.

    AutoConfig does not say at which of them it found the config.
    """
    folder, commit = repository / "models--someone--deepseek-vl", "f" * 40
    main = (folder / "refs" / "main").read_text()
    for copy in (folder / "snapshots" / commit, folder / "snapshots" / main / "sub"):
        shutil.copytree(hybrid.original, copy)
    (folder / "refs" / "v2").write_text(commit)
    program = """
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers import pipeline
import deepseek_vl_hf
name = "someone/deepseek-vl"
print(AutoConfig.from_pretrained(name).image_token_id, AutoTokenizer.from_pretrained(name)("a")["input_ids"][0])
for auto_class in (AutoProcessor, AutoImageProcessor, AutoModelForImageTextToText):
    print(type(auto_class.from_pretrained(name)).__name__)
pipe = pipeline("image-text-to-text", model=name, dtype="float32")
print(len(pipe(text=[{"role": "user", "content": "Hi"}], max_new_tokens=2)))
for arguments in ({"revision": "v2"}, {"subfolder": "sub"}):
    try:
        print(type(AutoConfig.from_pretrained(name, **arguments)).__name__)
    except ValueError as error:
        print("refused" if "vocabulary of 640" in str(error) else error)
"""
    environment = {"HF_HUB_CACHE": str(repository), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(repository)}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    expected = "602 600 DeepseekVLProcessor DeepseekVLImageProcessor DeepseekVLForConditionalGeneration 1"
    assert result.stdout.split() == [*expected.split(), "refused", "refused"]


def test_arguments_of_the_hub_reach_the_files(repository):
    """A cache elsewhere, and a revision."""
    arguments = {"cache_dir": repository, "revision": "main"}
    assert AutoTokenizer.from_pretrained("someone/deepseek-vl", **arguments)("a")["input_ids"][0] == 600
    assert AutoProcessor.from_pretrained("someone/deepseek-vl", **arguments).image_token_id == 602
    assert AutoImageProcessor.from_pretrained("someone/deepseek-vl", **arguments).min_size == 14


STATE = """
import transformers
from transformers import conversion_mapping
from transformers.models.auto import tokenization_auto as tokens
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.moe import ExpertsInterface
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.quantizers import auto as quantizers

conversion_mapping.get_checkpoint_conversion_mapping("llama")

def state():
    return repr([
        list(tokens.TOKENIZER_MAPPING_NAMES.items()),
        sorted(tokens.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS),
        tokens.REGISTERED_TOKENIZER_CLASSES,
        tokens.TOKENIZER_MAPPING._extra_content,
        sorted(conversion_mapping._checkpoint_conversion_mapping_cache),
        sorted(conversion_mapping.USER_REGISTERED_MAPPINGS),
        CONFIG_MAPPING._extra_content,
        PROCESSOR_MAPPING._extra_content,
        IMAGE_PROCESSOR_MAPPING._extra_content,
        [list(each._global_mapping) for each in (AttentionInterface, AttentionMaskInterface, ExpertsInterface)],
        quantizers.AUTO_QUANTIZER_MAPPING, quantizers.AUTO_QUANTIZATION_CONFIG_MAPPING,
    ])

before = state()
import deepseek_vl_hf
after = state()
assert after != before
deepseek_vl_hf.unregister()
assert state() == before
deepseek_vl_hf.register()
assert state() == after
"""


def test_unregister_restores_every_table():
    result = python("-c", STATE)
    assert result.returncode == 0, result.stderr


def test_without_registration_transformers_does_not_know_them(original):
    deepseek_vl_hf.unregister()
    try:
        with pytest.raises(ValueError, match="multi_modality"):
            AutoConfig.from_pretrained(original)
    finally:
        deepseek_vl_hf.register()


def test_rules_that_loading_cannot_apply():
    with pytest.raises(TypeError, match="Concatenate rules have no counterpart"):
        weight_mapping([Concatenate(("a", "b"), "c")])
