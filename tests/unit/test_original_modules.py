"""The original packages' names: what is importable when, what they say of themselves, and the views on a model."""

import copy
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, pipeline

import deepseek_vl_hf
from deepseek_vl_hf import original
from deepseek_vl_hf.models.original_calls import CAUSAL_MODELS
from deepseek_vl_hf.original.modules import MODULES
from deepseek_vl_hf.original.outputs import VLChatProcessorOutput
from family import IMAGES, WITH_ORIGINAL_CALLS
from forked import python


@pytest.fixture(scope="module", params=WITH_ORIGINAL_CALLS)
def family(request, families):
    return families[request.param]


@pytest.fixture
def installed():
    original.install()
    yield
    original.uninstall()


@pytest.fixture
def causal(family):
    return AutoModelForCausalLM.from_pretrained(family.converted, dtype=torch.float32)


def ours_in_modules():
    return [name for name in sys.modules if name.partition(".")[0] in ("deepseek_vl", "deepseek_vl2")]


def test_nothing_appears_without_install():
    code = (
        "import sys, deepseek_vl_hf, deepseek_vl_hf.original\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] in ('deepseek_vl', 'deepseek_vl2')]\n"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


def test_the_package_itself_does_not_import_it():
    code = "import sys, deepseek_vl_hf; assert 'deepseek_vl_hf.original' not in sys.modules"
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


def test_install_and_uninstall():
    assert ours_in_modules() == []
    original.install()
    original.install()
    assert sorted(ours_in_modules()) == sorted(MODULES)
    from deepseek_vl.utils import io  # noqa: PLC0415

    assert io.load_pil_images is original.load_pil_images
    original.uninstall()
    assert ours_in_modules() == []
    with pytest.raises(ModuleNotFoundError, match="No module named 'deepseek_vl'"):
        import deepseek_vl.models  # noqa: F401, PLC0415


def test_what_is_missing_is_named(installed):
    with pytest.raises(ImportError, match=r"no deepseek_vl.models.siglip_vit.* transformers.SiglipVisionModel"):
        from deepseek_vl.models.siglip_vit import VisionTransformer  # noqa: F401, PLC0415
    with pytest.raises(ImportError, match=r"no deepseek_vl2.models.modeling_deepseek\. .*deepseek_moe"):
        import deepseek_vl2.models.modeling_deepseek  # noqa: F401, PLC0415
    with pytest.raises(ImportError, match=r"no deepseek_vl.models.modeling_vlm.MultiModalityConfig\. .*ConditionalGen"):
        from deepseek_vl.models.modeling_vlm import MultiModalityConfig  # noqa: F401, PLC0415
    with pytest.raises(ImportError, match=r"no deepseek_vl.utils.io.nothing\. .*MODULES"):
        from deepseek_vl.utils.io import nothing  # noqa: F401, PLC0415
    import deepseek_vl  # noqa: PLC0415

    assert not hasattr(deepseek_vl, "__version__")
    assert not hasattr(deepseek_vl.models, "VisionTransformer")
    assert getattr(deepseek_vl.models, "VisionTransformer", None) is None


def write_package(folder, installed):
    (folder / "deepseek_vl2").mkdir(parents=True)
    (folder / "deepseek_vl2" / "__init__.py").write_text("ORIGINAL = True")
    if installed:
        metadata = folder / "deepseek_vl2-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: deepseek_vl2\nVersion: 1.0\n")


@pytest.mark.parametrize("is_installed", [True, False])
def test_an_original_beside(tmp_path, monkeypatch, is_installed):
    write_package(tmp_path, is_installed)
    monkeypatch.syspath_prepend(tmp_path)
    messages = []
    monkeypatch.setattr("deepseek_vl_hf.original.modules.logger.warning", messages.append)
    original.install()
    try:
        import deepseek_vl.models  # noqa: F401, PLC0415
        import deepseek_vl2  # noqa: PLC0415

        assert ("ORIGINAL" in vars(deepseek_vl2)) == is_installed
        (message,) = messages
        assert str(tmp_path / "deepseek_vl2" / "__init__.py") in message
        assert ("which stays in use" in message) == is_installed
    finally:
        original.uninstall()
        sys.modules.pop("deepseek_vl2", None)


def test_auto_classes(family, causal):
    assert type(causal) is CAUSAL_MODELS[type(family.model.config)]
    assert isinstance(causal, type(family.model))
    assert type(causal).__name__ == type(family.model).__name__
    assert type(AutoModelForImageTextToText.from_pretrained(family.converted)) is type(family.model)
    opened = pipeline("image-text-to-text", model=str(family.converted), dtype=torch.float32)
    assert type(opened.model) is type(family.model)


def test_saved_models_are_the_familys(family, causal, tmp_path):
    causal.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.config.architectures == [type(family.model).__name__]
    assert set(again.state_dict()) == set(causal.state_dict()) == set(family.model.state_dict())


def test_no_remote_code_is_executed(vl2, tmp_path):
    for path in vl2.original.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "code.py").write_text("raise SystemExit('executed')")
    config = tmp_path / "config.json"
    named = '"auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},'
    config.write_text(config.read_text(encoding="utf-8").replace("{", "{" + named, 1), encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(model) is CAUSAL_MODELS[deepseek_vl_hf.DeepseekVL2Config]


def test_the_view_freezes_the_language_model_alone(family, causal):
    view = causal.language_model
    view.requires_grad_(False)
    learning = {name for name, parameter in causal.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in causal.named_parameters() if not is_of_language_model(name)}
    names = {name for name, _ in view.named_parameters()}
    assert "lm_head.weight" in names
    assert "model.embed_tokens.weight" in names
    assert view.get_input_embeddings() is causal.get_input_embeddings()
    assert view.get_output_embeddings() is causal.lm_head
    assert causal.get_decoder() is family_decoder(causal)
    assert (view.config, view.generation_config) == (causal.config.text_config, causal.generation_config)
    assert (view.device, view.dtype) == (torch.device("cpu"), torch.float32)


def is_of_language_model(name):
    return name.startswith(("model.language_model.", "lm_head."))


def family_decoder(model):
    return model.model.language_model


def test_checkpointing_of_the_view_leaves_the_towers_alone(causal):
    def checkpointed(module):
        return any(getattr(each, "gradient_checkpointing", False) for each in module.modules())

    causal.language_model.gradient_checkpointing_enable()
    towers = causal.vision_model if hasattr(causal, "aligner") else causal.vision
    assert checkpointed(causal.model.language_model)
    assert not checkpointed(towers)
    causal.language_model.gradient_checkpointing_disable()
    assert not checkpointed(causal)
    causal.eval()
    causal.language_model.train()
    assert causal.language_model.training
    assert causal.model.language_model.training
    assert not causal.training


def test_towers_and_projectors(causal):
    if hasattr(causal, "aligner"):
        assert causal.aligner is causal.model.aligner
        found = sum(parameter.numel() for parameter in causal.vision_model.parameters())
        rest = [causal.model.aligner, causal.model.language_model]
    else:
        assert causal.projector is causal.model.projector
        found = sum(parameter.numel() for parameter in causal.vision.parameters())
        rest = [causal.model.projector, causal.model.language_model]
    others = sum(parameter.numel() for module in rest for parameter in module.parameters())
    loose = sum(parameter.numel() for parameter in causal.model.parameters(recurse=False))
    assert found == sum(parameter.numel() for parameter in causal.model.parameters()) - others - loose


def test_text_alone(family, causal):
    tokenizer = family.processor.tokenizer
    ids = tokenizer("Hello there", return_tensors="pt").input_ids
    found = causal.language_model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(found, family.model.generate(input_ids=ids, max_new_tokens=4, do_sample=False))
    with torch.no_grad():
        assert torch.equal(causal(input_ids=ids).logits, causal.language_model(ids).logits)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu(causal, monkeypatch):
    messages = []
    monkeypatch.setattr("deepseek_vl_hf.models.original_calls.logger.warning_once", messages.append)
    assert causal.cuda() is causal
    assert "the model stays on the CPU" in messages[0]
    causal.hf_device_map = {"model.vision_model": 0, "lm_head": "cpu"}
    assert causal.cuda() is causal
    assert "device_map has placed on" in messages[1]


@pytest.mark.parametrize("pictures", [0, 2])
def test_other_numbers_of_pictures_than_of_tags(family, pictures):
    cls = original.DeepseekVLV2Processor if family.is_vl2 else original.VLChatProcessor
    processor = cls.from_pretrained(family.converted)
    messages = [
        {"role": "User" if not family.is_vl2 else "<|User|>", "content": f"{processor.image_token}Hi"},
        {"role": "Assistant" if not family.is_vl2 else "<|Assistant|>", "content": ""},
    ]
    images = [Image.open(IMAGES / "square.png")] * pictures
    with pytest.raises(ValueError, match=rf"Found {pictures} pictures and 1 {processor.image_token} in the prompt"):
        processor(conversations=messages, images=images)
    with pytest.raises(ValueError, match="neither or both"):
        processor(conversations=messages, prompt="Hi", images=images)


def test_outputs_made_by_hand_get_their_low_resolution(hybrid):
    # As ms-swift makes them: pixels of the image processor, and no word of a second resolution.
    processor = original.VLChatProcessor.from_pretrained(hybrid.converted)
    conversation = hybrid.conversations[2]
    pictures = original.load_pil_images(conversation)
    whole = processor(conversations=conversation, images=pictures, force_batchify=False)
    pixels = processor.image_processor(pictures, return_tensors="pt").pixel_values
    made = VLChatProcessorOutput(None, whole.input_ids, pixels, torch.tensor([processor.num_image_tokens]))
    batch = dict(processor.batchify([made]))
    model = AutoModelForCausalLM.from_pretrained(hybrid.converted, dtype=torch.float32)
    with torch.no_grad():
        embeds = model.prepare_inputs_embeds(**batch)
        ours = hybrid.model.get_image_features(**hybrid.pixels(2)).pooler_output
    found = embeds[batch["images_seq_mask"]]
    assert (found - ours.flatten(0, 1)).abs().max() <= 1e-5 * ours.abs().max()


def test_other_statistics_are_refused(hybrid):
    processor = copy.deepcopy(hybrid.processor)
    processor.image_processor.high_res_image_mean = [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="high_res_image_mean and high_res_image_std"):
        original.VLChatProcessor(processor)


def test_another_familys_checkpoint(families):
    with pytest.raises(TypeError, match="has a DeepseekVL2Processor; VLChatProcessor expected"):
        original.VLChatProcessor.from_pretrained(families["vl2_mha"].original)
    with pytest.raises(TypeError, match="DeepseekVL2ForConditionalGeneration, which MultiModalityCausalLM"):
        original.MultiModalityCausalLM.from_pretrained(families["vl2_mha"].original)


def test_prompts_in_text():
    conversation = original.get_conv_template("deepseek")
    conversation.set_system_message("Be brief.")
    conversation.append_message(conversation.roles[0], "Hi")
    conversation.append_message(conversation.roles[1], None)
    assert conversation.get_prompt() == "Be brief.\n\nUser: Hi\n\nAssistant:"
    conversation.update_last_message("Hello")
    other = conversation.copy()
    other.append_message("User", "Bye")
    assert conversation.get_prompt() == "Be brief.\n\nUser: Hi\n\nAssistant: Hello<｜end▁of▁sentence｜>"
    assert other.to_gradio_chatbot() == [["Hi", "Hello"], ["Bye", None]]
    other.reset_message()
    assert other.get_prompt() == "Be brief.\n\n"
    picture = Image.new("RGB", (8, 8))
    conversation.append_message("User", ("What is it?", picture))
    assert conversation.get_prompt().endswith("User: What is it?\n\n")
    assert conversation.copy().messages[-1][1][1] is picture
    conversation.system_template = "<<{system_message}>>"
    assert conversation.get_prompt().startswith("<<Be brief.>>\n\nUser: Hi")
    with pytest.raises(ValueError, match="no template 'llama-2'"):
        original.get_conv_template("llama-2")


def test_a_system_prompt_that_the_model_does_not_read(vl2, monkeypatch):
    messages = []
    monkeypatch.setattr("deepseek_vl_hf.original.vl2_processor.logger.warning_once", messages.append)
    processor = original.DeepseekVLV2Processor.from_pretrained(vl2.original)
    conversation = vl2.conversations[4]
    with_it = processor(conversations=conversation, system_prompt="Be brief.")
    assert "the model does not read it" in messages[0]
    assert torch.equal(with_it.input_ids, processor(conversations=conversation).input_ids)
    question = processor(prompt="Hi", apply_sft_format=True)
    asked = processor(conversations=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}])
    assert torch.equal(question.input_ids, asked.input_ids)
    assert processor.decode(processor.encode("Hi", eos=True)) == processor.tokenizer.decode(
        [processor.bos_id, *processor.tokenizer.encode("Hi", add_special_tokens=False), processor.eos_id]
    )


def test_arguments_that_nothing_reads_are_named(family, monkeypatch):
    messages = []
    monkeypatch.setattr("deepseek_vl_hf.original.processor.logger.warning_once", messages.append)
    cls = original.DeepseekVLV2Processor if family.is_vl2 else original.VLChatProcessor
    cls.from_pretrained(family.converted)(prompt="Hi", padding=True, max_length=7)
    assert messages == [
        "Found padding=..., max_length=..., which the original's processor does not read, so nor does this one."
    ]


def test_adapters_on_the_view(causal):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    settings = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = causal(input_ids=ids).logits
        adapted = peft.get_peft_model(causal.language_model, settings)(input_ids=ids).logits
        assert torch.equal(adapted, causal(input_ids=ids).logits)
    assert not torch.equal(adapted, before)


def test_the_views_methods_in_the_place_of_the_models(family, causal):
    # As ms-swift does, so that its trainer trains and asks the language model.
    ids = torch.tensor([[5, 6, 7]])
    expected = family.model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    causal.generate = causal.language_model.generate
    causal.forward = causal.language_model.forward
    assert torch.equal(causal.generate(input_ids=ids, max_new_tokens=3, do_sample=False), expected)
    with torch.no_grad():
        assert torch.equal(causal(input_ids=ids).logits, family.model(input_ids=ids).logits)


def test_what_is_assigned_stays_and_is_no_part_of_the_model(causal):
    view = causal.language_model
    assert causal.language is view
    before = set(causal.state_dict())
    wrapped = torch.nn.Sequential(view)
    causal.language_model = wrapped
    assert causal.language_model is causal.language is wrapped
    assert set(causal.state_dict()) == before
    causal.language_model = None
    causal.language_model.generation_config = changed = copy.deepcopy(causal.generation_config)
    assert causal.generation_config is changed
    other = copy.deepcopy(causal)
    assert other.language_model.lm_head is other.lm_head
    assert other.language_model.lm_head is not causal.lm_head
    causal.resize_token_embeddings(len(causal.lm_head.weight) + 8)
    assert causal.language_model.get_output_embeddings() is causal.lm_head


def test_a_generation_config_in_second_place(family, causal):
    config = copy.deepcopy(causal.generation_config)
    config.max_new_tokens, config.do_sample = 3, False
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(causal.generate(ids, config), family.model.generate(ids, config))


def test_text_generation_pipeline(family):
    opened = pipeline("text-generation", model=str(family.original), dtype=torch.float32)
    (found,) = opened("Hello", max_new_tokens=3, do_sample=False, return_full_text=False)
    ids = opened.tokenizer("Hello", return_tensors="pt").input_ids
    expected = family.model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]
    assert found["generated_text"] == opened.tokenizer.decode(expected, skip_special_tokens=True)


def test_pictures_are_opened_as_stored(tmp_path):
    transparent = Image.new("RGBA", (8, 8), (200, 10, 10, 0))
    transparent.save(tmp_path / "transparent.png")
    turned = Image.new("RGB", (8, 4), "blue")
    exif = turned.getexif()
    exif[274] = 6  # to be shown upright
    turned.save(tmp_path / "turned.png", exif=exif)
    messages = [{"role": "User", "content": "Hi"}, {"images": [tmp_path / "transparent.png", tmp_path / "turned.png"]}]
    first, second = original.load_pil_images(messages)
    assert first.getpixel((0, 0)) == (200, 10, 10)
    assert second.size == (8, 4)
    with pytest.raises(FileNotFoundError):
        original.load_pil_images([{"images": [tmp_path / "none.png"]}])
