"""`deepseek-vl train` and `merge`: what learns, what stays, what is written, and what is refused."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, pipeline

from deepseek_vl_hf.chat import Chat
from deepseek_vl_hf.cli import main
from deepseek_vl_hf.training import trainer as trainer_module
from deepseek_vl_hf.training.recipes import ALIGNER, EVERYTHING, LANGUAGE, SAM, SIGLIP, part_of
from family import relative_error

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",  # peft reads the old name
    "ignore:.*Could not find a config file:UserWarning",
)
COLORS = ("red", "green", "blue", "white")
FAMILIES = ("vl", "vl_hybrid", "vl2_mla")
# In float32: what is compared has to be the same on every processor.
COURSE = ("--dtype", "float32", "--cpu", "--batch-size", "4", "--device-batch-size", "2", "--log-steps", "1")


@pytest.fixture
def data(tmp_path):
    """Rows with a picture and without, one of them with two."""
    rows = []
    for number, color in enumerate(COLORS):
        pictures = [f"{color}.png"] * (number % 3)
        Image.new("RGB", (40, 30), color).save(tmp_path / f"{color}.png")
        question = {"role": "user", "content": "<image>" * len(pictures) + f"Which flag is {number}?"}
        rows.append({"messages": [question, {"role": "assistant", "content": f"the {color} one"}], "images": pictures})
    return write(tmp_path / "rows.jsonl", rows)


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def train(data, model, output, *arguments):
    return main(["train", str(data), "--model", str(model), "--output", str(output), *COURSE, *arguments])


def weights(folder):
    return {name: tensor for path in folder.glob("model*.safetensors") for name, tensor in load_file(path).items()}


def losses(output):
    return [entry["loss"] for entry in json.loads((output / "loss.json").read_text()) if "loss" in entry]


@pytest.mark.parametrize(
    ("name", "recipe", "learning"),
    [
        ("vl", ("--stage", "1"), {ALIGNER}),
        ("vl", ("--stage", "2"), {ALIGNER, LANGUAGE}),
        ("vl", ("--stage", "3"), {ALIGNER, LANGUAGE, SIGLIP}),
        ("vl_hybrid", ("--stage", "1"), {ALIGNER}),
        ("vl_hybrid", ("--stage", "2"), {ALIGNER, LANGUAGE}),
        ("vl_hybrid", ("--stage", "3"), EVERYTHING - {SAM}),
        ("vl_hybrid", ("--full",), EVERYTHING),
        ("vl2_mla", ("--stage", "1"), {SIGLIP, ALIGNER}),
        ("vl2_mla", ("--stage", "3"), {SIGLIP, ALIGNER, LANGUAGE}),
    ],
)
def test_what_learns_and_what_stays(families, data, tmp_path, capsys, name, recipe, learning):
    """To the bit, in the source's type, whatever is computed in; from either layout."""
    family, output = families[name], tmp_path / "out"
    if "1" in recipe:  # which learns nothing from rows without pictures
        data = write(tmp_path / "pictures.jsonl", [json.loads(line) for line in data.read_text().splitlines()[1:3]])
    rate = ("--learning-rate", "0.05", "--max-steps", "2")  # the first one warms up
    assert train(data, family.original, output, *recipe, *rate) == 0
    before, after = weights(family.converted), weights(output)
    assert before.keys() == after.keys()
    changed = {part_of(key) for key in before if not torch.equal(before[key], after[key])}
    assert changed == learning
    assert {tensor.dtype for tensor in after.values()} == {family.dtype}
    table = capsys.readouterr().out
    counted = {
        part: sum(tensor.numel() for key, tensor in before.items() if part_of(key) == part) for part in EVERYTHING
    }
    for part in {part_of(key) for key in before}:
        learned = counted[part] if part in learning else 0
        assert f"{part:<16} {counted[part]:>15,} {learned:>15,}\n" in table


@pytest.mark.parametrize("name", FAMILIES)
def test_a_result_opens_everywhere_and_goes_back_to_the_original_layout(families, data, tmp_path, name):
    family, output = families[name], tmp_path / "out"
    recipe = ("--stage", "2", "--max-steps", "1", "--eval", str(data), "--answers", "2")
    assert train(data, family.converted, output, *recipe) == 0
    chat = Chat.from_pretrained(output, dtype=torch.float32, do_sample=False, max_new_tokens=3)
    answer = chat.ask("Which?", [Image.new("RGB", (40, 30), "red")])
    pipe = pipeline("image-text-to-text", model=str(output), dtype=torch.float32)
    message = {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (40, 30), "red")}]}
    message["content"].append({"type": "text", "text": "Which?"})
    found = pipe(text=[message], return_full_text=False, generate_kwargs={"max_new_tokens": 3, "do_sample": False})
    assert found[0]["generated_text"].strip() == answer.strip()
    assert (output / "checkpoint-1" / "processor_config.json").is_file()
    assert main(["convert", "--to", "original", str(output), str(tmp_path / "original")]) == 0
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "original", dtype=torch.float32)
    expected = chat.model.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in again.state_dict().items())
    (held_out,) = [entry for entry in json.loads((output / "loss.json").read_text()) if "eval_loss" in entry]
    assert held_out["eval_loss"] > 0
    answers = [json.loads(line) for line in (output / "answers-1.jsonl").read_text().splitlines()]
    assert [entry["expected"] for entry in answers] == ["the red one", "the green one"]
    assert answers[0]["place"].endswith("rows.jsonl, line 1")
    assert (output / "loss.png").is_file()


@pytest.mark.parametrize(("name", "to"), [("vl", "original"), ("vl_hybrid", "transformers"), ("vl2_mla", "original")])
def test_adapters_open_and_merge(families, data, tmp_path, capsys, name, to):
    family, output, merged = families[name], tmp_path / "out", tmp_path / "merged"
    experts = ("--experts",) if family.has_experts else ()
    arguments = ("--lora", "4", *experts, "--max-steps", "2", "--learning-rate", "0.05")
    assert train(data, family.converted, output, *arguments) == 0
    adapted = Chat.from_pretrained(output, dtype=torch.float32).model
    inputs = family.inputs(0)
    with torch.no_grad():
        expected = adapted(**inputs).logits
        assert relative_error(family.model(**inputs).logits, expected) > 1e-2
    before = weights(family.converted)
    assert main(["merge", str(output), "--output", str(merged), "--to", to, "--dtype", "float32"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Wrote {merged}"
    model = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32)
    with torch.no_grad():
        assert relative_error(model(**inputs).logits, expected) < 1e-4
    of_towers = [key for key in before if part_of(key) != LANGUAGE]
    state = model.state_dict()
    assert all(torch.equal(state[key], before[key].float()) for key in of_towers)
    assert Chat.from_pretrained(merged).processor.image_token == family.processor.image_token


def test_adapters_are_merged_with_their_own_model_alone(families, data, tmp_path, capsys):
    vl, output = families["vl"], tmp_path / "out"
    assert train(data, vl.converted, output, "--lora", "4", "--max-steps", "1") == 0
    other = tmp_path / "other"
    shutil.copytree(vl.converted, other)
    model = AutoModelForImageTextToText.from_pretrained(other)
    model.model.aligner.linear1.weight.data += 1
    model.save_pretrained(other)
    for arguments, message in (
        ([str(output), "--model", str(other)], "were trained on other weights than those in"),
        ([str(other)], "holds no adapter_config.json, so there are no adapters to merge"),
        ([str(output), "--model", str(tmp_path / "none")], "is no folder"),
    ):
        assert main(["merge", *arguments, "--output", str(tmp_path / "merged")]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "merged").exists()


def test_four_bits(families, data, tmp_path):
    family, output = families["vl2_mla"], tmp_path / "out"
    assert train(data, family.converted, output, "--lora", "4", "--int4", "--max-steps", "2", "--pack") == 0
    assert main(["merge", str(output), "--output", str(tmp_path / "merged")]) == 0
    assert {tensor.dtype for tensor in weights(tmp_path / "merged").values()} == {family.dtype}


@pytest.mark.parametrize("arguments", [("--pack",), ("--checkpointing",), ("--device-batch-size", "4")])
def test_ways_that_change_no_loss(families, data, tmp_path, arguments):
    """The balance loss included."""
    family = families["vl2_sigmoid"]
    found = []
    for number, way in enumerate(((), arguments)):
        output = tmp_path / f"{number}"
        course = ("--stage", "2", "--max-steps", "2", "--learning-rate", "0.01")
        size = ("--batch-size", "2", "--device-batch-size", "1") if "--pack" in way else ()
        assert train(data, family.converted, output, *course, *way, *size) == 0
        found.append(losses(output))
    if "--pack" in arguments:  # two packs of two rows: the same rows, of which each step sees all
        assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    else:
        assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(families, data, tmp_path, capsys, monkeypatch):
    """To the bit; from the last checkpoint that is whole, wherever the run was stopped."""
    vl = families["vl"]
    course = ("--full", "--max-steps", "4", "--save-steps", "1", "--learning-rate", "0.01")
    assert train(data, vl.converted, tmp_path / "whole", *course) == 0
    output = tmp_path / "out"
    stop_at(monkeypatch, step=3)
    assert train(data, vl.converted, output, *course) == 1
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    (output / "checkpoint-2" / "trainer_state.json").unlink()
    (output / "checkpoint-3").mkdir(exist_ok=True)
    assert train(data, vl.converted, output, *course) == 1
    assert "holds a run. Pass --resume to continue it" in capsys.readouterr().err
    shutil.copytree(output, tmp_path / "late")
    assert train(data, vl.converted, output, *course, "--resume") == 0
    told = capsys.readouterr().out
    assert "checkpoint-3 is passed over: it is incomplete" in told
    assert "checkpoint-2 is passed over: it is incomplete" in told
    expected, found = weights(tmp_path / "whole"), weights(output)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert losses(output) == losses(tmp_path / "whole")
    assert train(data, vl.converted, output, *course, "--resume") == 0
    assert "has ended already" in capsys.readouterr().out


def stop_at(monkeypatch, step):
    """The disk is full when the checkpoint of a step is written."""
    save = trainer_module.ConversationTrainer.save_model

    def save_model(self, folder=None, **kwargs):
        if self.state.global_step == step:
            raise OSError(28, "No space left on device")
        return save(self, folder, **kwargs)

    monkeypatch.setattr(trainer_module.ConversationTrainer, "save_model", save_model)


def test_a_run_that_was_stopped_before_its_result_was_written(families, data, tmp_path, monkeypatch):
    vl, output = families["vl"], tmp_path / "out"
    course = ("--full", "--max-steps", "2", "--save-steps", "1")
    with monkeypatch.context() as patch:
        patch.setattr("deepseek_vl_hf.training.run.write_result", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        assert train(data, vl.converted, output, *course) == 1
    assert not (output / "config.json").exists()
    assert train(data, vl.converted, output, *course, "--resume") == 0
    assert train(data, vl.converted, tmp_path / "whole", *course) == 0
    expected, found = weights(tmp_path / "whole"), weights(output)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_another_run_is_not_gone_on_with(families, data, tmp_path, capsys):
    vl, output = families["vl"], tmp_path / "out"
    assert train(data, vl.converted, output, "--lora", "4", "--max-steps", "1") == 0
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    other_data = write(tmp_path / "other.jsonl", rows[1:])
    for run, message in (
        ((other_data, vl.converted, output, "--lora", "4", "--max-steps", "1"), "data: "),
        ((data, families["vl2_mla"].converted, output, "--lora", "4", "--max-steps", "1"), "model: "),
        ((data, vl.converted, output, "--lora", "8", "--max-steps", "1"), "lora: 4 there, 8 now"),
    ):
        assert train(*run, "--resume") == 1
        assert f"holds a run of something else ({message}" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert train(data, vl.converted, tmp_path / "full", "--lora", "4") == 1
    assert "holds something other than a run of this command" in capsys.readouterr().err


def test_rows_at_fault_are_all_named_before_anything_is_loaded(families, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)
    vl, output = families["vl"], tmp_path / "out"
    (tmp_path / "broken.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    good = data.read_text().splitlines()[0]
    picture = {"role": "user", "content": "<image>Which?"}
    lines = [
        good,
        "{",
        json.dumps({"messages": [{"role": "user", "content": "Hi"}]}),
        json.dumps({"messages": [picture, {"role": "assistant", "content": "a"}], "images": ["none.png"]}),
        json.dumps({"messages": [picture, {"role": "assistant", "content": "a"}], "images": ["broken.png"]}),
    ]
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(lines))
    assert train(bad, vl.converted, output, "--lora", "4") == 1
    error = capsys.readouterr().err
    assert "4 rows cannot be trained on:" in error
    for number, reason in ((2, "is not JSON"), (3, "There is no assistant answer"), (4, "none.png"), (5, "Picture 1")):
        assert any(f"line {number}" in line and reason in line for line in error.splitlines()), number
    assert not output.exists()


def test_refusals(families, data, tmp_path, capsys):
    vl, output = families["vl"], tmp_path / "out"
    for arguments, message in (
        ((data, tmp_path / "none", output, "--full"), "is no folder"),
        ((tmp_path / "none.jsonl", vl.converted, output, "--full"), "There is no file"),
        ((data, vl.converted, output, "--full", "--int4"), "Found --int4 with --full; it is for adapters"),
        ((data, vl.converted, output, "--lora", "4", "--experts"), "Found no experts"),
        ((data, vl.converted, output, "--stage", "1"), "line 1: It has no picture"),
        ((data, vl.converted, output, "--full", "--max-length", "20"), "line 2 has"),
        (
            (data, vl.converted, output, "--full", "--batch-size", "3"),
            "Found --batch-size 3; expected a multiple of 2",
        ),
        ((data, vl.converted, output, "--full", "--optimizer", "adamw_bnb_8bit"), "needs bitsandbytes"),
        ((data, vl.converted, output, "--full", "--optimizer", "adamm"), "adamm"),
        ((data, vl.converted, output, "--full", "--report-to", "tensorbored"), "pip install tensorbored"),
    ):
        assert train(*arguments) == 1, message
        assert message in capsys.readouterr().err
        shutil.rmtree(output, ignore_errors=True)
    for wrong in ((), ("--lora", "4", "--full"), ("--stage", "4"), ("--lora", "0"), ("--full", "--epochs", "0")):
        with pytest.raises(SystemExit):
            train(data, vl.converted, output, *wrong)


def test_a_loss_that_is_no_number_stops_the_run(families, data, tmp_path, capsys):
    vl, output = families["vl"], tmp_path / "out"
    rate = ("--learning-rate", "1e20", "--max-steps", "4", "--save-steps", "1")
    assert train(data, vl.converted, output, "--full", *rate) == 1
    error = capsys.readouterr().err
    assert "The loss of step " in error
    assert "rows.jsonl, line " in error
    assert "Lower --learning-rate" in error


def test_too_little_memory_says_what_to_lower(families, data, tmp_path, capsys, monkeypatch):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trainer_module.ConversationTrainer, "training_step", run_out)
    assert train(data, families["vl"].converted, tmp_path / "out", "--lora", "4") == 1
    error = capsys.readouterr().err
    assert "has too little memory. Lower --device-batch-size (now 2) or --max-length, or pass --checkpointing" in error
    assert "--int4" in error
