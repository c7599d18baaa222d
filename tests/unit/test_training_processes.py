"""Processes that train together: what their launcher says is checked, and checkpoints in every form are told whole."""

import re
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from deepseek_vl_hf.training import processes
from deepseek_vl_hf.training.processes import check_launcher, fully_sharded, kind_of_checkpoints, of_first, one_error
from deepseek_vl_hf.training.runs import last_complete_checkpoint

VARIABLES = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_MIXED_PRECISION", "FSDP_VERSION")
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture
def launched(monkeypatch):
    """Sets what the launcher says, and what accelerate makes of the processes."""

    def set_up(kind=DistributedType.MULTI_GPU, **environment):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        state = SimpleNamespace(distributed_type=kind, is_main_process=True, num_processes=1)
        monkeypatch.setattr(processes, "PartialState", lambda: state)

    return set_up


@pytest.mark.parametrize(
    ("environment", "kind", "spread"),
    [
        ({}, "whole", False),
        (FSDP, "FSDP SHARDED_STATE_DICT", True),
        ({**FSDP, "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, "FSDP FULL_STATE_DICT", True),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed", True),
        ({"ACCELERATE_USE_FSDP": "false"}, "whole", False),
    ],
)
def test_how_processes_were_launched(launched, environment, kind, spread):
    launched(**environment)
    assert kind_of_checkpoints() == kind
    assert fully_sharded() is spread
    check_launcher(SimpleNamespace(bf16=False, fp16=False))


@pytest.mark.parametrize(
    ("kind", "environment", "message"),
    [
        (DistributedType.MULTI_CPU, FSDP, "Found FSDP in the launcher's config, and no GPUs"),
        (DistributedType.NO, {"ACCELERATE_USE_DEEPSPEED": "true"}, "Found DeepSpeed in the launcher's config"),
        (DistributedType.MULTI_GPU, {**FSDP, "FSDP_VERSION": "1"}, "expected fsdp_version: 2"),
        (DistributedType.MULTI_GPU, {"ACCELERATE_MIXED_PRECISION": "fp16"}, "Found mixed_precision: fp16 .* and bf16"),
    ],
)
def test_what_comes_to_nothing_is_refused(launched, kind, environment, message):
    launched(kind, **environment)
    with pytest.raises(ValueError, match=message):
        check_launcher(SimpleNamespace(bf16=True, fp16=False))
    launched(DistributedType.MULTI_GPU, ACCELERATE_MIXED_PRECISION="bf16")
    check_launcher(SimpleNamespace(bf16=True, fp16=False))


def test_one_process_looks_and_speaks_for_itself(launched, monkeypatch):
    launched()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert of_first(lambda: 3) == 3
    with pytest.raises(ValueError, match="mine"), one_error():
        raise ValueError("mine")


def test_the_second_to_fail_is_silent(monkeypatch):
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}.items():
        monkeypatch.setenv(name, value)
    for expected in (ValueError, SystemExit, SystemExit):
        with pytest.raises(expected), one_error():
            raise ValueError("NaN")


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({}, path) if path.suffix else path.write_text("")


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("pytorch_model_fsdp_0/.metadata", ("optimizer_0/.metadata", "scheduler.pt")),
        ("pytorch_model_fsdp.bin", ("optimizer.bin", "scheduler.pt")),
        ("latest", ("scheduler.pt",)),
    ],
)
def test_checkpoints_of_spread_weights(tmp_path, name, others):
    for number in (1, 2):
        checkpoint = tmp_path / f"checkpoint-{number}"
        for file in (name, *others):
            write(checkpoint / file)
        (checkpoint / "trainer_state.json").write_text("{}")
    assert last_complete_checkpoint(tmp_path) == (checkpoint, [])
    for file in others:
        content = (checkpoint / file).read_bytes()
        (checkpoint / file).unlink()
        found, passed_over = last_complete_checkpoint(tmp_path)
        assert found == tmp_path / "checkpoint-1"
        assert re.fullmatch(f"checkpoint-2 is passed over: its {file} is missing or damaged", passed_over[0])
        (checkpoint / file).write_bytes(content)
