"""ms-swift with `examples/ms_swift/register.py`: batches of our collator, and adapters through its commands."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from deepseek_vl_hf import ConversationCollator
from deepseek_vl_hf.nano.folder import nano_path
from family import IMAGES, VL2_FAMILIES, VL_FAMILIES

pytestmark = [
    pytest.mark.ms_swift,
    pytest.mark.skipif(find_spec("swift") is None, reason="ms-swift is not installed; make test-ms-swift installs it"),
]

HERE = Path(__file__).parent
REGISTER = HERE.parents[1] / "examples" / "ms_swift" / "register.py"
REFUSED = {
    "use_chat_template=False": {"use_chat_template": False},
    "loss_scale='all'": {"loss_scale": "all"},
    "response_prefix='Well'": {"response_prefix": "Well"},
    "max_pixels=1000": {"max_pixels": 1000},
    "norm_bbox='norm1000'": {"norm_bbox": "norm1000"},
    "sequence_parallel_size=2": {"sequence_parallel_size": 2},
}
TRAINING = {
    "custom_register_path": REGISTER,
    "model_type": "deepseek_vl_hf",
    "model": nano_path(),
    "torch_dtype": "float32",
    "learning_rate": 1e-2,
    "max_steps": 5,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
    "strict": "true",
    "add_version": "false",
    "check_model": "false",
    "report_to": "none",
}
ANSWERING = {"infer_backend": "transformers", "temperature": 0, "max_new_tokens": 8, "max_batch_size": 3}


def run(command, folder):
    log = folder / "log"
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=variables, stdout=output, stderr=output, timeout=600, check=False
        )
    assert done.returncode == 0, log.read_text(encoding="utf-8")[-6000:]
    return log.read_text(encoding="utf-8")


def swift(folder, command, **options):
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return run([Path(sys.executable).with_name("swift"), command, *arguments], folder)


def row(question, *answers, pictures=(), system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    for number, answer in enumerate(answers):
        messages += [{"role": "user", "content": question if number == 0 else "Why?"}]
        messages += [{"role": "assistant", "content": answer}]
    return {"messages": messages, **({"images": list(map(str, pictures))} if pictures else {})}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A picture in its place, none, one that is partly transparent and has no place, and several with a history."""
    glass = tmp_path_factory.mktemp("pictures") / "glass.png"
    Image.new("RGBA", (90, 200), (200, 30, 30, 100)).save(glass)
    first, second, *_ = sorted(IMAGES.glob("*.png"))
    return [
        row("<image>\nWhat is this?", "a fox", pictures=[first]),
        row("What does a fox eat?", "mice", system="Be brief."),
        row("What is this?", "glass", pictures=[glass]),
        row("Which of <image> and <image> is red?", "the first", "I see it", pictures=[second, first]),
    ]


def with_boxes(rows):
    """Of DeepSeek-VL2 alone: what is asked for and where it is stand beside the messages."""
    objects = {"ref": ["the fox"] * 2, "bbox": [[1, 2, 30, 40]]}
    return [{**row("<image>Find <ref-object>.", "<ref-object><bbox>", pictures=rows[0]["images"]), "objects": objects}]


@pytest.fixture(scope="module")
def encoded(families, rows, tmp_path_factory):
    """For each model its processor, its rows, and what ms-swift makes of them."""
    folder = tmp_path_factory.mktemp("encoded")
    models = {"nano": str(nano_path()), **{name: str(family.converted) for name, family in families.items()}}
    asked = {name: [*(with_boxes(rows) if name in VL2_FAMILIES else []), *rows] for name in models}
    requests = {"register": str(REGISTER), "rows": {models[name]: asked[name] for name in models}}
    requests["refused"] = list(REFUSED.values())
    (folder / "requests.json").write_text(json.dumps(requests), encoding="utf-8")
    run([sys.executable, HERE / "encode.py", folder / "requests.json", folder / "answers.pt"], folder)
    found = torch.load(folder / "answers.pt")
    return {name: (AutoProcessor.from_pretrained(path), asked[name], found[path]) for name, path in models.items()}


@pytest.mark.parametrize("name", ["nano", *VL_FAMILIES, *VL2_FAMILIES])
def test_batches_and_questions_are_our_own(encoded, name):
    processor, rows, found = encoded[name]
    expected = ConversationCollator(processor)(rows)
    assert expected["labels"][0, 0] == processor.tokenizer.bos_token_id
    expected["labels"][:, 0] = -100  # nothing predicts it
    assert found["batch"].keys() == expected.keys()
    for field, tensor in expected.items():
        assert found["batch"][field].dtype == tensor.dtype
        assert torch.equal(found["batch"][field], tensor), field
    assert found["questions"] == [question(processor, row)["input_ids"][0].tolist() for row in rows]
    learned = [label for label in found["labels"] if label != -100]
    assert processor.decode(learned).strip() == f"I see it{processor.tokenizer.eos_token}"


def test_settings_that_would_change_prompts_are_refused(encoded):
    for name, refusal in zip(REFUSED, encoded["nano"][2]["refused"], strict=True):
        assert f"Found {name}; expected" in refusal


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_adapters_are_trained_used_and_merged(rows, tmp_path):
    """Few steps: the answers are not those that were taught, but the same from all who give them."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    log = swift(tmp_path, "sft", **TRAINING, dataset="rows.jsonl", output_dir="out")
    losses = [float(record["loss"]) for record in lines_of(tmp_path / "out/logging.jsonl") if "loss" in record]
    assert len(losses) == TRAINING["max_steps"], log[-6000:]
    assert losses[-1] < 0.8 * losses[0]
    adapters, merged = tmp_path / f"out/checkpoint-{len(losses)}", tmp_path / "merged"
    swift(tmp_path, "export", adapters=adapters, merge_lora="true", output_dir=merged)
    answers = []
    for number, source in enumerate(({"adapters": adapters}, {"model": merged})):
        path = tmp_path / f"answers-{number}.jsonl"
        swift(tmp_path, "infer", **source, **ANSWERING, val_dataset="rows.jsonl", result_path=path)
        answers.append([record["response"] for record in lines_of(path)])
    assert answers[0] == answers[1] == our_answers(merged, rows)
    assert len(set(answers[0])) > 1


def our_answers(folder, rows):
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for row in rows:
        inputs = question(processor, row)
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(ids, skip_special_tokens=True).lstrip(" "))
    return answers


def question(processor, row):
    """A row without its last answer, in the original's shape of messages."""
    messages, pictures = row["messages"][:-1], row.get("images", [])
    number = next(number for number, message in enumerate(messages) if message["role"] == "user")
    text = messages[number]["content"]
    text = "<image>" * (len(pictures) - text.count("<image>")) + text
    text = text.replace("<image>", processor.image_token).replace("<ref-object>", "<|ref|>the fox<|/ref|>")
    asked = {"role": "User", "content": text, **({"images": pictures} if pictures else {})}
    messages = [*messages[:number], asked, *messages[number + 1 :]]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
