"""Muon for the matrices, AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024) orthogonalizes the update of each matrix. On these scenes it reaches a given loss in far fewer
steps than AdamW alone, and a step costs little more. `torch.optim.Muon` always multiplies in bfloat16: on a processor
without instructions for it a step took 4.6 s instead of 0.9. So it is written out here, in what the device is fast in.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from deepseek_vl_hf.cpu.dtypes import fast_dtype

MUON_FACTOR = 14  # Muon's learning rate over AdamW's
WEIGHT_DECAY = 0.05
MOMENTUM = 0.95
BETAS = (0.9, 0.98)
# Each round of Newton and Schulz takes singular values s to a s + b s^3 + c s^5; these bring all near 1 in five rounds.
ROUNDS, COEFFICIENTS = 5, (3.4445, -4.775, 2.0315)
# Tables of vectors: their rows are no linear map, so they stay with AdamW.
TABLES = ("embed_tokens", "position_embedding", "pos_embed", "lm_head", "rel_pos")

WARM_UP_STEPS = 100
# Of the rate for looking: answers stand still at the full rate, and are learned at this one.
ANSWERING_RATE = 0.3
DECAY_SHARE = 0.25  # of a stage


def rate(step: int, *, looking_steps: int, steps: int) -> float:
    """The learning rate's factor at a step. Each of the stages, looking and answering, warms up and decays.

    Args:
        step: number of steps that were made.
        looking_steps: steps at the full rate, at the beginning: those without questions, or all.
        steps: steps of the whole run.
    """
    if step < looking_steps:
        return stage(step, min(looking_steps, steps))
    return ANSWERING_RATE * stage(step - looking_steps, steps - looking_steps)


def stage(step: int, steps: int, decay: float = DECAY_SHARE) -> float:
    """Linear up, level, linear down to zero over the last `decay` of the steps."""
    warm_up = min(WARM_UP_STEPS, max(1, steps // 10))
    return min(1.0, (step + 1) / warm_up, (steps - step) / max(1, int(decay * steps)))


class Muon(torch.optim.Optimizer):
    """Momentum as Nesterov has it, made orthogonal; tall matrices move as far per column as square ones.

    Args:
        matrices: parameters with two dimensions.
        learning_rate: length of a step for each singular value.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], learning_rate: float) -> None:
        super().__init__(matrices, {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One step."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group["lr"])

    def _move(self, matrix: nn.Parameter, learning_rate: float) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix.grad)
        momentum = state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
        update = orthogonalized(matrix.grad.lerp(momentum, MOMENTUM), fast_dtype(matrix.device))
        rows, columns = matrix.shape
        matrix.mul_(1 - learning_rate * WEIGHT_DECAY)
        matrix.add_(update, alpha=-learning_rate * max(1.0, rows / columns) ** 0.5)


def orthogonalized(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[rows, columns]: the same singular vectors, with singular values between about 0.7 and 1.2.

    Args:
        matrix: [rows, columns].
        dtype: in which it is multiplied, brought to length 1 before, so that float16's range is large enough.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = (wide / wide.norm().clamp(min=1e-7)).to(dtype)
    first, third, fifth = COEFFICIENTS
    for _ in range(ROUNDS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), wide, beta=first)
    return (wide if len(matrix) <= matrix.shape[1] else wide.T).to(matrix.dtype)


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that step together; a scheduler sees the parameter groups of both.

    Args:
        parameters: names and parameters of the model.
        learning_rate: AdamW's; Muon's is MUON_FACTOR times as large.
        tables: parts of names; matrices with one of them stay with AdamW.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float, tables: Sequence[str] = TABLES
    ) -> None:
        named = [
            (weight, _is_matrix(weight) and not any(each in name for each in tables)) for name, weight in parameters
        ]
        self.matrices = [weight for weight, is_matrix in named if is_matrix]
        others = [weight for weight, is_matrix in named if not is_matrix]
        super().__init__([{"params": self.matrices}, {"params": others}], {"lr": learning_rate})
        self.views = [nn.Parameter(_as_matrix(weight.data)) for weight in self.matrices]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            Muon(self.views, MUON_FACTOR * learning_rate),
            torch.optim.AdamW(others, lr=learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY),
        )
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One step of both."""
        for weight, view in zip(self.matrices, self.views, strict=True):
            view.grad = None if weight.grad is None else _as_matrix(weight.grad)
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of the model's own parameters; the views get theirs anew at each step."""
        for weight in self.matrices:
            weight.grad = None
        self.parts[1].zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def _is_matrix(weight: nn.Parameter) -> bool:
    return weight.ndim in (2, 3, 4)


def _as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """Muon takes matrices alone, in the same memory.

    A convolution has a row per output channel. The experts of a layer are one wide MLP: orthogonalized together they
    move about as far as one by one, in half of the time.
    """
    return weight.flatten(0, 1) if weight.ndim == 3 else weight.flatten(1)
