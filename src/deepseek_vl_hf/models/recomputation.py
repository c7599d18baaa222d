"""Numbers that are computed again for the gradients instead of being kept for them."""

from collections.abc import Callable
from functools import wraps

import torch
from torch.utils.checkpoint import checkpoint


def computed_twice(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function of tensors of which, beside its result, nothing is kept for the gradients but what it is given.

    Args:
        function: draws no random numbers.
    """

    @wraps(function)
    def plain_or_twice(*tensors: torch.Tensor) -> torch.Tensor:
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
            return function(*tensors)
        result: torch.Tensor = checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
        return result

    return plain_or_twice
