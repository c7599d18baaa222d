"""Processes that train together: how they were launched, what one of them finds for all, which of their errors is told.

accelerate's launcher speaks through the environment.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer, TrainingArguments

Found = TypeVar("Found")
# Of the launcher's store; one that is gone does not answer at all.
LONGEST_WAIT = timedelta(seconds=10)

WHOLE = "whole"


def kind_of_checkpoints() -> str:
    """In which form checkpoints are written on the way; no other form is read."""
    if _is_set("ACCELERATE_USE_FSDP"):
        return f"FSDP {os.environ.get('FSDP_STATE_DICT_TYPE', 'SHARDED_STATE_DICT')}"
    return "DeepSpeed" if _is_set("ACCELERATE_USE_DEEPSPEED") else WHOLE


def fully_sharded() -> bool:
    """Whether weights are spread over processes; then all of a layer have one type."""
    return kind_of_checkpoints() != WHOLE


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")


def check_launcher(arguments: TrainingArguments) -> None:
    """Compares what the launcher was told with what comes of it.

    Args:
        arguments: of the run; where they were made, the processes have met.

    Raises:
        ValueError: weights were to be spread over processes, which accelerate does on GPUs alone; or by the first FSDP;
            or the launcher has other numbers computed than the command was asked for.
    """
    if fully_sharded() and PartialState().distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise ValueError(
            f"Found {kind_of_checkpoints().partition(' ')[0]} in the launcher's config, and no GPUs to spread weights "
            "over. Leave that config out: torchrun --nproc_per_node 2 -m deepseek_vl_hf train ..."
        )
    if _is_set("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION") != "2":
        raise ValueError("Found the first version of FSDP in the launcher's config; expected fsdp_version: 2.")
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    computed = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no"
    if asked not in ("no", computed):
        raise ValueError(
            f"Found mixed_precision: {asked} in the launcher's config, and {computed} by --dtype. Leave it to the "
            "command: mixed_precision: 'no'."
        )


def add_up_in_float32(trainer: Trainer) -> None:
    """Has FSDP add up gradients, and give the loss, in float32, as one process does; accelerate rounds both."""
    if trainer.is_fsdp_enabled and (trainer.args.bf16 or trainer.args.fp16):
        computed = torch.bfloat16 if trainer.args.bf16 else torch.float16
        policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32)
        trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy


def of_first(find: Callable[[], Found]) -> Found:
    """What the first process finds, for all; the others do not look, and wait for it."""
    state = PartialState()
    found = [find() if state.is_main_process else None]
    if state.num_processes > 1:
        broadcast_object_list(found)
    return found[0]  # type: ignore[return-value] # there it is the first one's


@contextmanager
def one_error() -> Iterator[None]:
    """Has the process that fails first tell its error; the others, which fail alike or because of it, end in silence.

    Raises:
        SystemExit: in those others.
    """
    try:
        yield
    except Exception as error:
        if _is_first_to_fail():
            raise
        raise SystemExit(1) from error


def _is_first_to_fail() -> bool:
    """Whether no other process of this launch has failed; each asks once, in the store that torch's launcher keeps."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not address or not port:
        return True
    try:
        store = torch.distributed.TCPStore(address, int(port), is_master=False, timeout=LONGEST_WAIT)
        return store.add(f"deepseek_vl_hf/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (RuntimeError, ValueError):  # rather two messages than none
        return True
