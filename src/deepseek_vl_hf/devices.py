"""The device that a name means: whether this machine has it is asked before anything is loaded onto it."""

import torch

# Names with which transformers places the parts of a model itself.
PLACED_BY_TRANSFORMERS = ("auto", "balanced", "balanced_low_0", "sequential")


def check_device(device: str) -> None:
    """Raises ValueError where no tensor can be made on a device.

    Args:
        device: as torch names it, "cuda:1" for example, or one of `PLACED_BY_TRANSFORMERS`.
    """
    if device in PLACED_BY_TRANSFORMERS:
        return
    try:
        if not torch.empty(0, device=device).is_meta:
            return
        reason = "it holds no values"
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # torch raises either, by its build
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise ValueError(f"The device {device!r} cannot be used here ({reason}). Name one that this machine has, or cpu.")
