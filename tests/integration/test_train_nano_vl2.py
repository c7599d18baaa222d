"""The training script of nano-vl2: both stages learn, a stopped run goes on, and the result is measured."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import evaluate
import evaluate_vl2
import nano_vl2.model
import train_nano_vl2
from deepseek_vl_hf import nano_path
from deepseek_vl_hf.evaluation.tasks.refcoco import overlap
from evaluate_vl2 import accuracy, box_figures, counted, without_experts
from nano_vl2.dataset import AnsweringDataset, content, example
from nano_vl2.experts import TOGETHER
from nano_vl2.model import build_processor
from overlaps import matches

BATCH = 4


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A fraction of the model, and a tokenizer of few examples."""
    for part, sizes in {
        "vision": {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128},
        "text": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "kv_lora_rank": 32},
    }.items():
        for name, value in sizes.items():
            monkeypatch.setitem(nano_vl2.model.SIZES[part], name, value)
    monkeypatch.setattr(train_nano_vl2, "build_processor", lambda: build_processor(400))


def options(folder, *arguments):
    sizes = ["--batch-size", BATCH, "--batch-conversations", BATCH]
    general = ["--output", folder, "--pictures", 12 * BATCH, "--conversations", 12 * BATCH, *sizes]
    return train_nano_vl2.parse([*map(str, general), *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run; later tests only read it."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        small.__wrapped__(patch)
        train_nano_vl2.train(options(folder))
    return folder


@pytest.fixture(scope="module")
def model(finished):
    return AutoModelForImageTextToText.from_pretrained(finished / "model", dtype=torch.float32).eval()


def test_both_stages_learn(finished):
    log = json.loads((finished / "looking" / "checkpoint-12" / "trainer_state.json").read_text())["log_history"]
    assert {"points", "middles", "shapes", "boxes", "texts", "place"} <= set(log[0])
    assert json.loads((finished / "looking" / "loss.json").read_text())[-1]["step"] == 10
    before = load_file(finished / "looking.safetensors")
    after = load_file(finished / "answering/checkpoint-12/model.safetensors")
    both = [name for name in after if name in before]  # files of a whole model hold experts one by one
    learned = {name.split(".")[1] for name in both if not torch.equal(after[name], before[name])}
    assert "language_model" in learned
    assert not {"vision_model", "projector"} & learned  # they stay as looking left them
    biases = [after[name] for name in after if name.endswith("correction_bias")]
    assert all(bias.abs().max() > 0 for bias in biases)


def test_the_result_has_the_published_structure(finished, model):
    config = json.loads((finished / "model" / "config.json").read_text())
    assert config["model_type"] == "deepseek_vl_v2"
    text = config["language_config"]
    assert (text["use_mla"], text["topk_method"], text["scoring_func"]) == (True, "noaux_tc", "sigmoid")
    assert model.generation_config.do_sample is False
    assert not hasattr(model, "cell_head")


def test_all_experts_together_are_the_chosen_ones(model):
    ids = torch.arange(10, 60)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        model.set_experts_implementation({"text_config": TOGETHER})
        found = model(input_ids=ids).logits
        model.set_experts_implementation({"text_config": "eager"})
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for stage in ("looking", "answering"):
        for checkpoint in (run / stage).glob("checkpoint-*"):
            if int(checkpoint.name.rpartition("-")[2]) > 8:
                shutil.rmtree(checkpoint)
    shutil.rmtree(run / "model")
    (run / "looking.safetensors").unlink()
    train_nano_vl2.train(options(run))
    for name in ("looking.safetensors", "model/model.safetensors"):
        expected, found = load_file(finished / name), load_file(run / name)
        assert all(torch.equal(weight, expected[key]) for key, weight in found.items())


def test_a_finished_model_learns_more(finished, tmp_path):
    """From other conversations, with its tokenizer, and without looking again; its tower learns now, too."""
    train_nano_vl2.train(options(tmp_path, "--begin-with", finished / "model", "--first", 12 * BATCH))
    assert not (tmp_path / "looking.safetensors").exists()
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (finished, tmp_path))
    log = json.loads((tmp_path / "answering/checkpoint-12/trainer_state.json").read_text())["log_history"]
    assert log[0].keys() >= {"texts", "points", "answer_loss", "counts_loss"}  # what is seen is asked for, too
    learned = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    parts = {"language", "vision", "projector", "image_newline", "view_seperator"}
    assert {name.split(".")[0] for name in learned} == parts
    tokenizers = [(folder / "model" / "tokenizer.json").read_bytes() for folder in (finished, tmp_path)]
    assert tokenizers[0] == tokenizers[1]
    assert AnsweringDataset(8, 40)[0]["messages"] == AnsweringDataset(48)[40]["messages"]


def test_fresh_layers_learn_by_themselves_first(finished, model, tmp_path, monkeypatch):
    """From a tenth of the conversations here, one step; the model stays as it is meanwhile, and learns afterwards."""
    rows = []
    made = AnsweringDataset.__init__
    monkeypatch.setattr(
        AnsweringDataset, "__init__", lambda self, *given: (rows.append(given[:2]), made(self, *given))[1]
    )
    train_nano_vl2.train(options(tmp_path, "--begin-with", finished / "model", "--conversations", 10 * BATCH))
    # The model learns from conversations that the layers have not seen.
    assert rows == [(BATCH, 0), (10 * BATCH, BATCH)]
    kept = load_file(tmp_path / "alone" / "checkpoint-1" / "model.safetensors")
    before = {name: weight for name, weight in model.state_dict().items() if name in kept}
    assert {name.split(".")[1] for name in before} >= {"vision_model", "projector", "language_model"}
    assert [name for name, weight in before.items() if not torch.equal(weight, kept[name])] == []
    assert any(name.endswith("correction_bias") for name in before)
    for head in ("cell_head", "clue_head"):
        alone = load_file(tmp_path / f"{head}_alone.safetensors")
        assert all(torch.equal(weight, kept[f"{head}.{name}"]) for name, weight in alone.items())
    last = load_file(tmp_path / "answering" / "checkpoint-10" / "model.safetensors")
    learned = {name.split(".")[1] for name, weight in before.items() if not torch.equal(weight, last[name])}
    assert learned >= {"vision_model", "projector", "language_model"}


def test_what_cannot_be_trained(finished, tmp_path):
    with pytest.raises(ValueError, match=r"another recipe .*seed: 0 there, 1 now"):
        train_nano_vl2.train(options(finished, "--seed", 1))
    with pytest.raises(ValueError, match="2 conversations in batches of 4"):
        train_nano_vl2.train(options(tmp_path, "--conversations", 2))
    with pytest.raises(FileNotFoundError, match="absent is no folder"):
        train_nano_vl2.train(options(tmp_path / "run", "--begin-with", tmp_path / "absent"))
    with pytest.raises(ValueError, match="first is 3; expected a multiple of 2"):
        AnsweringDataset(8, 3)


# Evaluation


def test_the_result_is_measured(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "LONGEST_ANSWER", 6)
    file = tmp_path / "figures.json"
    monkeypatch.setattr(
        sys,
        "argv",
        ["", str(finished / "model"), "--pictures", "5", "--output", str(file), "--kinds", "board", "chart"],
    )
    assert evaluate_vl2.main() == 0
    figures = json.loads(file.read_text())
    columns = {"float32", "bfloat16", "int4", "float32, no tiles", "float32, no routed experts"}
    assert set(figures["accuracy"]) == set(figures["boxes"]) == columns
    assert figures["questions"].keys() == figures["accuracy"]["float32"].keys()
    assert figures["kinds_of_pictures"] == ["board", "chart"]
    assert "chart" in figures["questions"]
    assert not {"read_tiles", "table", "several"} & figures["questions"].keys()
    assert figures["converted_answers_equal"] is True
    assert all(sum(layer) == pytest.approx(len(layer), abs=0.01) for layer in figures["expert_shares"])


def test_right_answers_count_and_wrong_ones_do_not():
    asked = [(turn.kind, turn.answer) for number in range(120) for turn in example("held-out", number).turns]
    right = [answer for _, answer in asked]
    assert set(accuracy(asked, right).values()) == {1.0}
    assert {value for figures in box_figures(asked, right).values() for value in figures.values()} == {1.0}
    halved = [answer.replace("]]<|/det|>", "], [0, 0, 10, 10]]<|/det|>") for answer in right]
    figures = box_figures(asked, halved)
    assert figures["find"]["recall"] == 1
    assert figures["find"]["precision"] == 0.5
    assert accuracy(asked, halved)["find"] == 0
    renamed = [answer.replace("<|ref|>", "<|ref|>not ") for answer in right]
    assert box_figures(asked, renamed)["find"]["recall"] == accuracy(asked, renamed)["caption"] == 0


def test_boxes_are_compared_by_what_they_share():
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 20, 30, 30)) == overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    twice = [(0, 0, 10, 10), (1, 0, 11, 10)]
    assert matches(twice, [(0, 0, 10, 10)]) == 1  # one box is not two finds
    assert matches([(0, 0, 10, 10)], twice) == 1


def test_experts_can_be_counted_and_switched_off(model):
    processor = build_processor(400)
    one = example("held-out", 0, kind="board")
    messages = [{"role": "user", "content": content(one, one.turns[0])}]
    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        with counted(model) as counts:
            whole = model(**batch).logits
        with without_experts(model):
            assert not torch.allclose(model(**batch).logits, whole)
        assert torch.equal(model(**batch).logits, whole)
    chosen = batch["input_ids"].numel() * model.config.text_config.num_experts_per_tok
    assert [int(layer.sum()) for layer in counts] == [chosen] * 2  # the first of three layers is dense


def test_a_model_of_another_family_cannot_be_measured():
    with pytest.raises(ValueError, match="is a deepseek_vl_hybrid; expected a deepseek_vl2"):
        evaluate_vl2.evaluate(str(nano_path()), 1)
