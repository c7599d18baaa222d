"""TRL's trainers: a model's class by folder, and pictures in the one field that GRPO hands on."""

import copy
import pickle
import types

import peft
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from conversations import ask, text
from deepseek_vl_hf import grpo_processor
from deepseek_vl_hf.training.grpo import from_row, to_row
from family import FAMILIES, VL2_FAMILIES, relative_error

# What peft itself calls.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ALL_FAMILIES = (*FAMILIES, *VL2_FAMILIES[1:])
# How TRL's trainers find a model's class, in its releases 0.24 and 1.16.
TRL_PROGRAM = """
import transformers
from transformers import AutoConfig

def create_model_from_path(path, **kwargs):
    config = AutoConfig.from_pretrained(path)
    architecture = getattr(transformers, config.architectures[0], None)
    if architecture is None:
        raise AttributeError(config.auto_map)
    return architecture.from_pretrained(path, **kwargs)
"""


def module(name):
    """A module that holds the program under a name."""
    found = types.ModuleType(name)
    exec(TRL_PROGRAM, found.__dict__)
    return found


@pytest.mark.parametrize("name", ALL_FAMILIES)
@pytest.mark.parametrize("layout", ["original", "converted"])
def test_trl_gets_our_class_by_folder(families, name, layout):
    family = families[name]
    folder = getattr(family, layout)
    model = module("trl.trainer.utils").create_model_from_path(folder, dtype=torch.float32)
    assert type(model) is type(family.model)
    assert model.config.architectures == [type(family.model).__name__]
    expected = family.model.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_real_trl(family):
    utils = pytest.importorskip("trl.trainer.utils", reason="TRL is not in the locked environments")
    for folder in (family.original, family.converted):
        assert type(utils.create_model_from_path(str(folder))) is type(family.model)


def test_nobody_else_notices(family):
    """The architecture is the file's for every other caller; transformers' own class of the name is its own."""
    name = type(family.model).__name__
    assert AutoConfig.from_pretrained(family.converted).architectures == [name]
    if not family.has_experts:
        assert getattr(transformers, name).__module__.startswith("transformers.")
        by_name = module("trlx.utils").create_model_from_path(family.converted)
        assert type(by_name) is getattr(transformers, name)


def prompts(family):
    """Three of different lengths, with one picture, two of other shapes, and none."""
    pictures = [Image.effect_noise(size, 60).convert("RGB") for size in ((90, 40), (40, 90), (400, 90))]
    parts = [{"type": "image", "image": picture} for picture in pictures]
    conversations = [ask(parts[0], text("Which?")), ask(*parts[1:], text("And of these two?")), ask(text("Why?"))]
    rendered = [family.processor.apply_chat_template(each, add_generation_prompt=True) for each in conversations]
    return conversations, rendered, [pictures[:1], pictures[1:], []]


@torch.no_grad()
@pytest.mark.parametrize("name", ALL_FAMILIES)
@pytest.mark.parametrize("adapted", [False, True])
def test_the_model_reads_the_pictures_of_its_rows(families, name, adapted):
    """In another order, a few at a time, as such a trainer has them."""
    family = families[name]
    model = family.load()
    if adapted:  # peft calls `forward` of the model inside
        model = peft.get_peft_model(model, peft.LoraConfig()).eval()
    processor = grpo_processor(family.processor, model)
    _, rendered, pictures = prompts(family)
    inputs = processor(images=pictures, text=rendered, padding=True, return_tensors="pt")
    assert len(inputs["pixel_values"]) == 3
    assert {*inputs} == {"input_ids", "attention_mask", "pixel_values"}
    of_prompt = [[0], [1, 2], []]
    for order in ([1, 0], [2, 1]):
        chosen = [number for prompt in order for number in of_prompt[prompt]]
        ids, mask = (inputs[name][order] for name in ("input_ids", "attention_mask"))
        found = model(input_ids=ids, attention_mask=mask, pixel_values=inputs["pixel_values"][chosen])
        texts, images = [rendered[prompt] for prompt in order], [pictures[prompt] for prompt in order]
        plain = family.processor(images=images, text=texts, padding=True)
        width = plain["input_ids"].shape[1]
        expected = family.model(**plain).logits
        keep = plain["attention_mask"].bool()
        # Measured 0; with the rows in another order 0.6 and more.
        assert relative_error(found.logits[:, -width:][keep], expected[keep]) < 1e-5


def test_generate_gets_what_it_reads(family):
    """Lists of ids as long as each prompt is, and the tensors as they were."""
    conversations, *_ = prompts(family)
    processor = grpo_processor(family.processor)
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    found = processor.apply_chat_template(conversations, **options)
    alone = [family.processor.apply_chat_template(each, **options)["input_ids"] for each in conversations]
    assert found["input_ids"] == [ids[0].tolist() for ids in alone]
    names = {*family.processor.image_processor.model_input_names} - {"tile_pixel_values"}  # none of them has tiles
    assert {*found} - {"input_ids", "attention_mask"} == names
    one = processor.apply_chat_template(conversations[0], return_tensors="pt", **options)
    assert torch.equal(one["input_ids"], alone[0])


def test_it_is_saved_as_the_processor(family, tmp_path):
    processor = grpo_processor(family.processor)
    processor.save_pretrained(tmp_path / "wrapped")
    family.processor.save_pretrained(tmp_path / "plain")
    files = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "wrapped").iterdir()} == files
    assert type(AutoProcessor.from_pretrained(tmp_path / "wrapped")) is type(family.processor)
    for copied in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert copied.plain.to_dict() == family.processor.to_dict()
    assert grpo_processor(processor) is processor


def test_a_template_that_is_set_later_is_read(families):
    plain = AutoProcessor.from_pretrained(families["vl"].converted)
    processor = grpo_processor(plain)
    processor.chat_template = "{{ messages[0]['content'][0]['text'] }}!"
    assert processor.apply_chat_template(ask(text("Who?"))) == "Who?!"
    assert plain.chat_template == processor.chat_template


def test_rows_hold_tensors_of_any_shape():
    fields = [torch.arange(6.0).view(2, 3), torch.tensor([[4, 7]]), torch.zeros(0, 3)]
    row = torch.cat([to_row(fields), torch.zeros(5)])  # padded to the longest of a batch
    found = from_row(row, 3)
    assert [each.dtype for each in found] == [torch.float32, torch.int64, torch.float32]
    assert all(map(torch.equal, found, fields))


def test_refusals(families):
    hybrid, vl2 = families["vl_hybrid"], families["vl2_mha"]
    with pytest.raises(TypeError, match="Found a CLIPConfig; expected a processor of deepseek_vl_hf"):
        grpo_processor(transformers.CLIPConfig())
    with pytest.raises(ValueError, match="Found no model of deepseek_vl_hf in Linear"):
        grpo_processor(hybrid.processor, torch.nn.Linear(2, 2))
    # What GRPOTrainer comes to without it.
    line = r"give that processing_class=deepseek_vl_hf.grpo_processor\(processor, model\)"
    inputs = dict(hybrid.inputs(hybrid.one_image))
    del inputs["high_res_pixel_values"]
    with pytest.raises(ValueError, match=f"high_res_pixel_values is missing.*{line}"):
        hybrid.model(**inputs)
    with pytest.raises(TypeError, match=f"Found crop_to_patches=.*{line}"):
        vl2.processor.image_processor(Image.new("RGB", (40, 40)), crop_to_patches=True)
    with pytest.raises(TypeError, match=r"^Found no_such=\.\.\., which the image processor does not read"):
        vl2.processor.image_processor(Image.new("RGB", (40, 40)), no_such=1)


def test_models_without_rows_read_as_before(families):
    """Registering the models changes nothing for other inputs, `generate` included."""
    family = families["vl2_mha"]
    model = AutoModelForImageTextToText.from_pretrained(family.converted, dtype=torch.float32)
    grpo_processor(family.processor, model)
    inputs = family.inputs(family.one_image)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **options), family.model.generate(**inputs, **options))
