"""Scripts that import the original packages, as their model cards have them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from deepseek_vl_hf import nano_path
from deepseek_vl_hf.original import VLChatProcessor, install, load_pil_images, uninstall
from family import IMAGES
from forked import python

PICTURES = Path(__file__).parents[2] / "examples" / "pictures"
QUESTIONS = ("What color is the circle?", "How many shapes are there?", "What does it say?")


@pytest.fixture
def installed():
    install()
    yield
    uninstall()


# What the card of DeepSeek-VL does, question by question, and whichever way the prompt comes.
VL_SCRIPT = """
import sys
import torch
from transformers import AutoModelForCausalLM
from deepseek_vl.models import MultiModalityCausalLM, VLChatProcessor
from deepseek_vl.utils.io import load_pil_images

path, *questions, picture = sys.argv[1:]
processor: VLChatProcessor = VLChatProcessor.from_pretrained(path)
tokenizer = processor.tokenizer
model: MultiModalityCausalLM = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
model = model.to(torch.float32).cuda().eval()
assert isinstance(model, MultiModalityCausalLM)
for question in questions:
    conversation = [
        {"role": "User", "content": f"<image_placeholder>{question}", "images": [picture]},
        {"role": "Assistant", "content": ""},
    ]
    pictures = load_pil_images(conversation)
    inputs = processor(conversations=conversation, images=pictures, force_batchify=True).to(model.device)
    outputs = model.language_model.generate(
        inputs_embeds=model.prepare_inputs_embeds(**inputs),
        attention_mask=inputs.attention_mask,
        pad_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        max_new_tokens=32,
        do_sample=False,
        use_cache=True,
    )
    print("answer:", tokenizer.decode(outputs[0].cpu().tolist(), skip_special_tokens=True))
    assert inputs["sft_format"][0].endswith("Assistant:")
"""


def answers_of_ours(dtype):
    """What this package's own calls say of the same questions."""
    processor = AutoProcessor.from_pretrained(nano_path())
    model = AutoModelForImageTextToText.from_pretrained(nano_path(), dtype=dtype)
    answers = []
    for question in QUESTIONS:
        content = [{"type": "image", "path": str(picture())}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        generated = model.generate(**inputs, max_new_tokens=32, do_sample=False)
        answers.append(generated[0, inputs["input_ids"].shape[1] :].tolist())
    return processor.tokenizer, answers


def picture():
    return sorted(PICTURES.glob("*.png"))[0]


def test_a_script_runs_unchanged(tmp_path):
    # In a folder with a package of that name that is merely lying there, as in a clone.
    (tmp_path / "deepseek_vl").mkdir()
    (tmp_path / "deepseek_vl" / "__init__.py").write_text("raise ImportError('the original')")
    script = tmp_path / "script.py"
    script.write_text(VL_SCRIPT)
    done = python("-m", "deepseek_vl_hf.original", "script.py", nano_path(), *QUESTIONS, picture(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tokenizer, expected = answers_of_ours(torch.float32)
    found = [line.removeprefix("answer: ") for line in done.stdout.splitlines() if line.startswith("answer: ")]
    assert found == [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert "no GPU" in done.stderr or torch.cuda.is_available()
    assert done.stderr.count("it is passed over, and deepseek_vl_hf's is used") == 1


def test_there_is_no_such_script(tmp_path):
    done = python("-m", "deepseek_vl_hf.original", "none.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "There is no script none.py." in done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nano_answers_as_by_our_own_calls(dtype):
    _, expected = answers_of_ours(dtype)
    processor = VLChatProcessor.from_pretrained(nano_path())
    model = AutoModelForCausalLM.from_pretrained(nano_path(), dtype=dtype)
    for question, answer in zip(QUESTIONS, expected, strict=True):
        prompt = processor.apply_sft_template_for_multi_turn_prompts(
            [{"role": "User", "content": f"<image_placeholder>{question}"}, {"role": "Assistant", "content": ""}],
            system_prompt=processor.system_prompt,
        )
        inputs = processor(prompt=prompt, images=load_pil_images([{"images": [picture()]}])).to(model.device)
        found = model.language_model.generate(
            inputs_embeds=model.prepare_inputs_embeds(**inputs),
            attention_mask=inputs.attention_mask,
            max_new_tokens=32,
            do_sample=False,
        )
        assert found[0].tolist() == answer


def test_the_card_of_vl2_with_one_picture(installed, vl2):
    from deepseek_vl2.models import DeepseekVLV2ForCausalLM, DeepseekVLV2Processor  # noqa: PLC0415
    from deepseek_vl2.serve.app_modules.utils import parse_ref_bbox  # noqa: PLC0415
    from deepseek_vl2.utils.io import load_pil_images  # noqa: PLC0415

    processor = DeepseekVLV2Processor.from_pretrained(vl2.original)
    model = DeepseekVLV2ForCausalLM.from_pretrained(vl2.original, trust_remote_code=True, dtype=torch.float32)
    assert isinstance(model, DeepseekVLV2ForCausalLM)
    conversation = [
        {
            "role": "<|User|>",
            "content": "<image>\n<|ref|>The red one.<|/ref|>.",
            "images": [str(IMAGES / "wide.png")],
        },
        {"role": "<|Assistant|>", "content": ""},
    ]
    pictures = load_pil_images(conversation)
    inputs = processor(conversations=conversation, images=pictures, force_batchify=True, system_prompt="")
    outputs = model.language.generate(
        inputs_embeds=model.prepare_inputs_embeds(**inputs.to(model.device)),
        attention_mask=inputs.attention_mask,
        max_new_tokens=8,
        do_sample=False,
    )
    ours = vl2.processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    expected = vl2.model.generate(**ours, max_new_tokens=8, do_sample=False)
    assert outputs[0].tolist() == expected[0, ours["input_ids"].shape[1] :].tolist()
    # These weights name no place, so the answer is one of the card's kind.
    boxed = parse_ref_bbox("<|ref|>The red one.<|/ref|><|det|>[[580, 270, 999, 900]]<|/det|>", pictures[-1])
    assert boxed.size == pictures[-1].size
    assert boxed.tobytes() != pictures[-1].tobytes()
    assert parse_ref_bbox("There is none.", pictures[-1]) is None


def test_the_card_of_vl2_with_three_pictures(installed, vl2):
    # As the very first card had it: all from deepseek_vl, and `language_model`.
    from deepseek_vl.models import DeepseekVLV2Processor  # noqa: PLC0415

    processor = DeepseekVLV2Processor.from_pretrained(vl2.original)
    model = AutoModelForCausalLM.from_pretrained(vl2.original, trust_remote_code=True, dtype=torch.float32)
    names = ("square.png", "tall.png", "wide.png")
    conversation = [
        {
            "role": "<|User|>",
            "content": "This is image_1: <image>\nThis is image_2: <image>\nThis is image_3: <image>\n Which is red?",
            "images": [str(IMAGES / name) for name in names],
        },
        {"role": "<|Assistant|>", "content": ""},
    ]
    inputs = processor(conversations=conversation, images=load_pil_images(conversation), system_prompt="")
    assert inputs.images_spatial_crop.tolist() == [[[1, 1]] * 3]
    found = model.language_model.generate(
        inputs_embeds=model.prepare_inputs_embeds(**inputs), max_new_tokens=8, do_sample=False
    )
    ours = vl2.processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    expected = vl2.model.generate(**ours, max_new_tokens=8, do_sample=False)
    assert found[0].tolist() == expected[0, ours["input_ids"].shape[1] :].tolist()


def test_answers_as_they_come(installed):
    # As the page of DeepSeek-VL does: a question is (text, picture), the answer is to come.
    from deepseek_vl.serve import inference  # noqa: PLC0415

    tokenizer, model, processor = inference.load_model(str(nano_path()))
    conversation = processor.new_chat_template()
    conversation.append_message(conversation.roles[0], (f"<image_placeholder>{QUESTIONS[0]}", Image.open(picture())))
    conversation.append_message(conversation.roles[1], "")
    asked = {
        "prompts": inference.convert_conversation_to_prompts(conversation),
        "vl_gpt": model,
        "vl_chat_processor": processor,
        "tokenizer": tokenizer,
        "stop_words": conversation.stop_str,
    }
    pieces = list(inference.deepseek_generate(**asked, max_length=16, temperature=0))
    expected_tokenizer, (expected, *_) = answers_of_ours(model.dtype)
    assert "".join(pieces) == expected_tokenizer.decode(expected)
    whole = "".join(pieces).removesuffix(tokenizer.eos_token).strip()
    for stop_words in (whole[:2], [whole[:2], ""]):
        stopped = "".join(inference.deepseek_generate(**{**asked, "stop_words": stop_words}, temperature=0))
        assert whole[:2] in stopped
        assert len(stopped) < len("".join(pieces))
    with pytest.raises(ValueError, match=r"top_p is 7\.0"):  # not a thread that waits forever
        list(inference.deepseek_generate(**asked, top_p=7.0, temperature=0.5))


def test_answers_of_vl2_as_they_come(installed, vl2):
    from deepseek_vl2.serve import inference  # noqa: PLC0415

    tokenizer, model, processor = inference.load_model(str(vl2.original), dtype=torch.float32)
    conversation = processor.new_chat_template()
    pictures = [Image.open(IMAGES / "square.png"), Image.open(IMAGES / "wide.png")]
    conversation.append_message(conversation.roles[0], ("<image>\n<image>\nWhich is red?", pictures))
    conversation.append_message(conversation.roles[1], "")
    messages, last = inference.convert_conversation_to_prompts(conversation)
    assert last is pictures[-1]
    inputs = processor(conversations=messages, images=pictures)
    expected = model.language.generate(
        inputs_embeds=model.prepare_inputs_embeds(**inputs), max_new_tokens=6, do_sample=False
    )
    for chunk_size in (-1, 100):
        pieces = inference.deepseek_generate(
            conversations=messages,
            vl_gpt=model,
            vl_chat_processor=processor,
            tokenizer=tokenizer,
            stop_words=[],
            max_length=6,
            temperature=0,
            chunk_size=chunk_size,
        )
        assert "".join(pieces) == tokenizer.decode(expected[0])
