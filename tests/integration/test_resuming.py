"""Training with transformers' Trainer: a run that was stopped goes on as if it had not been, and parts add up."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments, set_seed

from conversations import ask, text
from deepseek_vl_hf import ConversationCollator
from family import FAMILIES, VL2_FAMILIES

COLORS = ("red", "green", "blue", "white")
STEPS, STOP = 4, 2


def rows():
    """Some with a picture, some without; answers of different lengths."""
    found = []
    for number, color in enumerate(COLORS):
        picture = [{"type": "image", "image": Image.new("RGB", (40, 30), color)}] if number % 2 == 0 else []
        answer = {"role": "assistant", "content": f"the {color} one" + " indeed" * number}
        found.append({"messages": [*ask(*picture, text("Which flag is it?")), answer]})
    return found


def trainer(family, folder, **arguments):
    set_seed(0)
    settings = {
        **{"max_steps": STEPS, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "use_cpu": True},
        **{"remove_unused_columns": False, "report_to": [], "logging_steps": 1, "disable_tqdm": True},
    }
    return Trainer(
        model=family.load().train(),
        args=TrainingArguments(output_dir=str(folder), **{**settings, **arguments}),
        train_dataset=rows(),
        eval_dataset=rows(),
        data_collator=ConversationCollator(family.processor),
    )


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize(
    ("name", "sharded"), [*((name, False) for name in (*FAMILIES, *VL2_FAMILIES[1:])), ("vl", True), ("vl2_mla", True)]
)
def test_a_resumed_run_is_the_unbroken_one(families, name, sharded, tmp_path, monkeypatch):
    """To the bit, the experts of DeepSeek-VL2 included, which files hold one by one."""
    family = families[name]
    if sharded:
        save = type(family.model).save_pretrained
        monkeypatch.setattr(
            type(family.model),
            "save_pretrained",
            lambda self, *a, **k: save(self, *a, **{**k, "max_shard_size": "200KB"}),
        )
    whole = trainer(family, tmp_path, save_steps=STOP)
    whole.train()
    checkpoint = tmp_path / f"checkpoint-{STOP}"
    assert (len([*checkpoint.glob("model*.safetensors")]) > 1) == sharded
    resumed = trainer(family, tmp_path / "resumed", save_strategy="no")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_equal(tensors(resumed.model), tensors(whole.model))
    assert not torch.equal(whole.model.lm_head.weight, family.model.lm_head.weight)


def test_the_best_model_is_taken_at_the_end(families, tmp_path):
    family = families["vl2_mha"]
    run = trainer(
        family,
        tmp_path,
        **{"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1},
        # The loss falls with each step, so the largest is the first one's.
        **{"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True},
    )
    run.train()
    best = run.state.best_model_checkpoint
    assert best.endswith("checkpoint-1")
    stored = type(family.model).from_pretrained(best, dtype=torch.float32)
    assert_equal(tensors(run.model), tensors(stored))


@pytest.mark.parametrize("splits", [2, 4])
def test_the_balance_loss_does_not_depend_on_accumulation(families, splits, tmp_path):
    """The loss is that of one batch, whatever it is cut into."""
    family = families["vl2_sigmoid"]

    def losses(size, accumulated):
        arguments = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 2}
        run = trainer(family, tmp_path, save_strategy="no", **arguments)
        run.model.config.text_config.output_router_logits = True
        run.model.config.text_config.router_aux_loss_coef = 1.0  # else a fault in it would be small
        run.train()
        return [entry["loss"] for entry in run.state.log_history if "loss" in entry]

    assert losses(4 // splits, splits) == pytest.approx(losses(4, 1), rel=2e-5)


def test_a_part_of_the_experts_leaves_the_others_alone(families):
    """Files hold one tensor per expert, and may hold some experts each."""
    family = families["vl2_mla"]
    model = family.load()
    before = tensors(model)
    prefix = next(name for name in before if name.endswith("experts.gate_up_proj")).removesuffix("gate_up_proj")
    stored = {k: v for path in family.converted.glob("*.safetensors") for k, v in load_file(path).items()}
    part = {
        name: torch.full_like(stored[name], 2.0)
        for name in (f"{prefix}1.up_proj.weight", f"{prefix}0.down_proj.weight")
    }
    found = model.load_state_dict(part, strict=False)
    assert found.unexpected_keys == []
    after = tensors(model)
    gate, up = after[f"{prefix}gate_up_proj"][1].chunk(2)
    assert torch.equal(gate, before[f"{prefix}gate_up_proj"][1].chunk(2)[0])
    assert (up == 2).all()
    assert (after[f"{prefix}down_proj"][0] == 2).all()
    assert torch.equal(after[f"{prefix}down_proj"][1:], before[f"{prefix}down_proj"][1:])
