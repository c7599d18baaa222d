"""DeepSpeed's ZeRO-3, for which transformers cuts models up while it loads them, and which keeps their sizes aside."""

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config


def load_whole_from_here_on() -> None:
    """Has models loaded as without DeepSpeed, by any process alone."""
    unset_hf_deepspeed_config()


def size_of(parameter: torch.Tensor) -> int:
    """How many numbers a parameter has, those that lie with other processes included."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
