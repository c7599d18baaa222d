"""The training script: it learns, goes on where it was stopped, and refuses what it cannot use."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import evaluate
import nano.dataset
import nano.model
import train_nano
from deepseek_vl_hf import fast_dtype
from nano.cells import CellCollator
from nano.dataset import SceneDataset, example
from nano.optimizer import ANSWERING_RATE, MOMENTUM, WEIGHT_DECAY, Muon, orthogonalized, rate, stage

ROOT = Path(__file__).parents[2]
BATCH = 4


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A fraction of the nano model, and few pictures without questions."""
    for part, sizes in {
        "vision": {"num_hidden_layers": 1},
        "high_res": {"hidden_size": 32, "num_hidden_layers": 2, "global_attn_indexes": [1]},
        "text": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
    }.items():
        for name, value in sizes.items():
            monkeypatch.setitem(nano.model.SIZES[part], name, value)
    for module in (nano.dataset, train_nano):
        monkeypatch.setattr(module, "LOOKING_PICTURES", 5 * BATCH)


def options(folder, *arguments, pictures=20 * BATCH):
    general = ["--output", str(folder), "--pictures", str(pictures), "--batch-size", str(BATCH)]
    return train_nano.parse([*general, *map(str, arguments)])


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run on scenes; later tests only read it."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        small.__wrapped__(patch)
        train_nano.train(options(folder))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_loss_falls(finished):
    points = json.loads((finished / "loss.json").read_text())
    assert points[-1]["step"] == 20
    assert points[-1]["cell_loss"] < points[0]["cell_loss"]
    assert points[-1]["answer_loss"] < 6  # 6.6 is what a guess among all tokens costs
    with Image.open(finished / "loss.png") as curve:
        assert curve.size[0] > 500


def test_towers_look_in_what_the_processor_is_fastest_in(tmp_path, monkeypatch):
    """In another type a step takes more than twice as long, or nine times, which nothing else would show."""
    types, loss = [], train_nano.CellHead.loss
    monkeypatch.setattr(
        train_nano.CellHead, "loss", lambda self, tokens, cells: types.append(tokens.dtype) or loss(self, tokens, cells)
    )
    train_nano.train(options(tmp_path / "run", pictures=2 * BATCH))
    assert types == [fast_dtype()] * 2


def test_the_result_opens(finished):
    model, info = AutoModelForImageTextToText.from_pretrained(finished / "model", output_loading_info=True)
    assert model.dtype == torch.float16
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]  # the layer of the second task is gone
    assert json.loads((finished / "model" / "config.json").read_text())["model_type"] == "multi_modality"


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(finished, run):
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.name.rpartition("-")[2]) > 12:
            shutil.rmtree(checkpoint)
    shutil.rmtree(run / "model")
    train_nano.train(options(run))
    expected = weights(finished)
    for name, weight in weights(run).items():
        assert torch.equal(weight, expected[name]), name


def test_a_finished_run_can_be_lengthened(run):
    chosen = run / "checkpoints" / "checkpoint-14"
    train_nano.train(options(run, "--resume-from", chosen, pictures=24 * BATCH))
    steps = [point["step"] for point in json.loads((run / "loss.json").read_text())]
    assert steps[-1] == 20  # the log has every tenth step
    assert (run / "checkpoints" / "checkpoint-24").is_dir()


def damage_weights(checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def damage_optimizer(checkpoint):
    path = checkpoint / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:1000])


def damage_state(checkpoint):
    (checkpoint / "trainer_state.json").write_text("{")


def remove_optimizer(checkpoint):
    (checkpoint / "optimizer.pt").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "checkpoint-20 is damaged"),
        (damage_optimizer, "checkpoint-20 is damaged"),
        (damage_state, "checkpoint-20 is damaged"),
        (remove_optimizer, "checkpoint-20 is no complete checkpoint: optimizer.pt missing"),
    ],
)
def test_damaged_checkpoints(run, damage, message):
    damage(run / "checkpoints" / "checkpoint-20")
    with pytest.raises(ValueError, match=message):
        train_nano.train(options(run))


def test_a_checkpoint_of_another_model(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(nano.model.SIZES["text"], "num_hidden_layers", 3)
    foreign = finished / "checkpoints" / "checkpoint-20"
    with pytest.raises(ValueError, match="checkpoint-20 is of another model: 9 tensors differ"):
        train_nano.train(options(tmp_path / "other", "--resume-from", foreign))


def test_a_folder_with_another_recipe(run):
    with pytest.raises(ValueError, match=r"another recipe .*seed: 0 there, 1 now"):
        train_nano.train(options(run, "--seed", 1))


def test_too_few_pictures(tmp_path):
    with pytest.raises(ValueError, match="3 pictures in batches of 4; that makes no batch"):
        train_nano.train(options(tmp_path, pictures=3))


def test_the_learning_rate():
    rates = [rate(step, looking_steps=2000, steps=6000) for step in range(6001)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99:1501] == [1.0] * 1402
    assert rates[1750] == pytest.approx(0.5)
    assert rates[2000] == pytest.approx(ANSWERING_RATE / 100)
    assert rates[2099:5001] == [ANSWERING_RATE] * 2902
    assert rates[5500] == pytest.approx(ANSWERING_RATE / 2)
    assert [stage(step, 1000, decay=1.0) for step in (100, 500, 900)] == pytest.approx([0.9, 0.5, 0.1])
    assert rates[6000] == 0


# Evaluation


def test_the_result_is_measured(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "LONGEST_ANSWER", 8)
    monkeypatch.setattr(
        sys, "argv", ["", str(finished / "model"), "--pictures", "6", "--output", str(tmp_path / "f.json")]
    )
    assert evaluate.main() == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert set(figures["accuracy"]) == {"float32", "bfloat16", "float32, SAM zeroed"}
    assert all(0 <= value <= 1 for column in figures["accuracy"].values() for value in column.values())
    assert figures["questions"].keys() == figures["accuracy"]["float32"].keys()
    assert figures["held_out_pictures"] == 6
    assert figures["converted_answers_equal"] is True
    assert 0.5 <= figures["bfloat16_top1_agreement"] <= 1


def test_a_model_without_sam_cannot_be_measured():
    with pytest.raises(ValueError, match="is a deepseek_vl; expected a deepseek_vl_hybrid"):
        evaluate.evaluate(str(ROOT / "tests" / "fixtures" / "vl" / "checkpoint"), 1)


def test_only_exact_answers_count():
    examples = [example("held-out", number) for number in range(40)]
    right = [[turn.answer for turn in one.turns] for one in examples]
    assert set(evaluate.accuracy(examples, right).values()) == {1.0}
    wrong = [
        [text.lower() if turn.kind == "read_large" else text for turn, text in zip(one.turns, texts, strict=True)]
        for one, texts in zip(examples, right, strict=True)
    ]
    found = evaluate.accuracy(examples, wrong)
    assert found["read_large"] < 0.5
    assert found["color"] == 1


def test_sam_can_be_left_out(finished):
    model = AutoModelForImageTextToText.from_pretrained(finished / "model", dtype=torch.float32).eval()
    batch = CellCollator(AutoProcessor.from_pretrained(finished / "model"))([SceneDataset(10**5, 8)[30_000]])
    batch.pop("cells")
    with torch.no_grad():
        whole = model(**batch).logits
        with evaluate.without_sam(model):
            assert not torch.equal(model(**batch).logits, whole)
        assert torch.equal(model(**batch).logits, whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent is no folder"),
        (["absent", "--pictures", "0"], "at least 1"),
        (["absent", "--output", "nowhere/figures.json"], "nowhere is no folder"),
    ],
)
def test_evaluation_refuses(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["", *arguments])
    assert evaluate.main() == 1
    assert message in capsys.readouterr().err


# The optimizer


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (24, 24)])
def test_muon_moves_as_torchs_does(shape):
    """Up to bfloat16, in which torch's always multiplies."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    settings = {"weight_decay": WEIGHT_DECAY, "momentum": MOMENTUM, "adjust_lr_fn": "original"}
    optimizers = Muon([ours], 0.02), torch.optim.Muon([theirs], lr=0.02, **settings)
    for _ in range(3):
        gradient = torch.randn(shape)
        for matrix, optimizer in zip((ours, theirs), optimizers, strict=True):
            matrix.grad = gradient.clone()
            optimizer.step()
    assert (ours - theirs).norm() < 0.02 * (ours - 1).norm()


def test_orthogonalized_keeps_the_singular_vectors():
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalized(matrix, torch.float32) @ right.T
    assert (found - found.diag().diag()).abs().max() < 1e-4
    assert 0.6 < found.diag().min() <= found.diag().max() < 1.25
    tall = orthogonalized(matrix.T, torch.float32)
    torch.testing.assert_close(tall, orthogonalized(matrix, torch.float32).T)
