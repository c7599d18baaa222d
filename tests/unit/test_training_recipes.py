"""Which parts learn, how fast, and how what they answer is compared."""

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from deepseek_vl_hf.training.collator import ConversationCollator
from deepseek_vl_hf.training.evaluation import Answer, answers_of, asked
from deepseek_vl_hf.training.packing import PackCollator, Packs
from deepseek_vl_hf.training.recipes import ALIGNER, LANGUAGE, SIGLIP, Recipe, part_of
from deepseek_vl_hf.training.settings import TrainingSettings, number_of_processes, trainer_arguments
from deepseek_vl_hf.training.trainer import ConversationTrainer, Reports


def test_every_parameter_is_of_a_part(families):
    for name in ("vl", "vl_hybrid", "vl2_mla", "vl2_sigmoid"):
        assert {part_of(key) for key, _ in families[name].model.named_parameters()} >= {SIGLIP, ALIGNER, LANGUAGE}


@pytest.mark.parametrize(
    ("name", "rates"),
    [("vl", (1e-3, 3e-5, 2e-5)), ("vl_hybrid", (1e-3, 4.2e-5, 2e-5)), ("vl2_mha", (5.4e-4,) * 2 + (3e-5,))],
)
def test_the_published_learning_rates(families, name, rates):
    config = families[name].model.config
    assert tuple(Recipe(stage=stage).learning_rate(config) for stage in (1, 2, 3)) == rates
    assert Recipe(full=True).learning_rate(config) == rates[2]
    assert Recipe(lora=8).learning_rate(config) == 2e-4


@pytest.mark.parametrize(
    "arguments", [{}, {"lora": 4, "full": True}, {"stage": 1, "int4": True}, {"full": True, "experts": True}]
)
def test_recipes_that_are_none(arguments):
    with pytest.raises(ValueError, match=r"expected one of --lora|it is for adapters"):
        Recipe(**arguments)


def test_the_tower_of_vl2_learns_at_a_tenth(vl2, tmp_path):
    recipe, model = Recipe(stage=3), vl2.load()
    share = recipe.tower_share(model.config)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, weight_decay=0.1, use_cpu=True, report_to=[]
    )
    optimizer = ConversationTrainer(model=model, args=arguments, tower_share=share).create_optimizer()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            is_tower = part_of(names.pop(id(parameter))) == SIGLIP
            found.setdefault(is_tower, set()).add((group["lr"], group["weight_decay"]))
    assert names == {}
    assert found == {True: {(1e-4, 0.1), (1e-4, 0.0)}, False: {(1e-3, 0.1), (1e-3, 0.0)}}
    assert Recipe(full=True).tower_share(model.config) == 1


def test_several_devices_and_one_process(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ValueError, match="Found 4 GPUs and one process"):
        number_of_processes()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert number_of_processes() == 4
    settings = TrainingSettings("rows", "model", tmp_path, Recipe(full=True), batch_size=16, device_batch_size=2)
    assert settings.accumulation(4) == 2
    with pytest.raises(ValueError, match=r"Found --batch-size 16; expected a multiple of 6.* processes, 3"):
        settings.accumulation(3)


@pytest.mark.parametrize(("batch", "processes", "rows"), [(16, 1, 4), (2, 1, 2), (6, 1, 3), (7, 1, 1), (16, 8, 2)])
def test_rows_at_once_divide_the_batch(tmp_path, batch, processes, rows):
    settings = TrainingSettings("rows", "model", tmp_path, Recipe(full=True), batch_size=batch)
    assert settings.rows_at_once(processes) == rows
    assert settings.accumulation(processes) * rows * processes == batch


def test_the_last_loss_is_logged(tmp_path):
    control, reports = TrainerControl(), Reports(print, tmp_path)
    for step, expected in ((5, False), (6, True)):
        reports.on_step_end(None, TrainerState(global_step=step, max_steps=6), control)
        assert control.should_log == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trainers_settings(vl2, tmp_path, dtype):
    settings = TrainingSettings("rows", "model", tmp_path, Recipe(stage=3), dtype=dtype, checkpointing=True, cpu=True)
    arguments = trainer_arguments(settings, vl2.model.config)
    assert arguments.bf16 == (dtype == "bfloat16")
    assert (arguments.learning_rate, arguments.weight_decay) == (3e-5, 0.1)
    assert arguments.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert arguments.ddp_find_unused_parameters is False


@pytest.mark.parametrize("checkpointing", [False, True])
def test_weights_in_another_type_are_not_kept_where_layers_are_computed_twice(vl2, tmp_path, checkpointing):
    one = {"max_steps": 1, "batch_size": 1, "device_batch_size": 1, "dtype": "bfloat16", "cpu": True}
    settings = TrainingSettings("rows", "model", tmp_path, Recipe(stage=3), checkpointing=checkpointing, **one)
    model, kept = vl2.load(), []
    model.lm_head.register_forward_hook(lambda *_: kept.append(torch.is_autocast_cache_enabled()))
    row = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}], "place": ""}
    ConversationTrainer(
        model=model,
        args=trainer_arguments(settings, model.config),
        data_collator=PackCollator(ConversationCollator(vl2.processor)),
        train_dataset=Packs([row]),
    ).train()
    assert kept == [not checkpointing]


def test_the_last_answer_is_asked_for():
    conversation = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": " 2"}]},
    ]
    assert asked(conversation) == (conversation[:3], " 2")
    assert Answer("row", " 2", "2\n").is_exact
    assert not Answer("row", "2", "22").is_exact


def test_answers_are_those_of_each_question_alone(vl2):
    """Whatever is asked beside it, and however long that is."""
    conversations = [
        (f"row {number}", [{"role": "user", "content": "Why? " * number}, {"role": "assistant", "content": "Because."}])
        for number in (1, 9, 3)
    ]
    together = answers_of(vl2.model, vl2.processor, conversations, 3)
    alone = answers_of(vl2.model, vl2.processor, conversations, 1)
    assert together == alone
    assert [answer.place for answer in together] == ["row 1", "row 9", "row 3"]
