"""A look at the first logits of an answer: numbers that are none answer with the vocabulary's first token for ever."""

from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessor


class FirstLogits(LogitsProcessor):
    """Looks once at the logits of the prompt's last position, and lets all of them pass.

    On a GPU the answer to whether they are numbers is fetched a step later, when it has long been computed, unless
    tokens are drawn: drawing from what is no number ends in an error of the device that cannot be caught.

    Args:
        model: whose weights are searched when the logits are no numbers.
        draws: whether tokens are drawn.
        every_step: look at each step; an assistant's logits pass through the same processors, before the model's.
        infinity_is_asked_for: a bias may force a token by +inf.
    """

    def __init__(self, model: nn.Module, draws: bool, every_step: bool, infinity_is_asked_for: bool) -> None:
        self._model = model
        self._draws = draws
        self._every_step = every_step
        self._infinity_is_asked_for = infinity_is_asked_for
        self._seen = False
        self._pending: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Gives `scores`, [rows, vocabulary], as they are.

        Raises:
            ValueError: see `check`.
        """
        self.check()
        if self._seen and not self._every_step:
            return scores
        self._seen = True
        wrong = scores.isnan() if self._infinity_is_asked_for else scores.isnan() | scores.isposinf()
        self._pending = wrong.any()
        if scores.device.type == "cpu" or self._draws:
            self.check()
        return scores

    def check(self) -> None:
        """Waits for the answer, if it is still to come.

        Raises:
            ValueError: the logits hold NaN or infinity.
        """
        pending, self._pending = self._pending, None
        if pending is not None and bool(pending):
            raise ValueError(f"The model's logits for the prompt hold NaN or infinity. {_reason(self._model)}")


def _reason(model: nn.Module) -> str:
    """What may be wrong, from a look at all weights, which takes its time."""
    broken = {name: count for name, count in map(_not_finite, model.named_parameters()) if count}
    if broken:
        name, count = next(iter(broken.items()))
        return (
            f"{len(broken)} of its weights hold such values themselves: {name} has {count}. The checkpoint is damaged, "
            "or training diverged; download it again, or go back to an earlier one."
        )
    dtype: Any = getattr(model, "dtype", None)
    if dtype == torch.float16:
        return (
            "The weights are finite, so float16, whose largest number is 65504, ran over. Load the model in another "
            "type: from_pretrained(..., dtype=torch.bfloat16), or torch.float32."
        )
    return (
        "The weights are finite. Look for NaN in what was passed (pixel_values, inputs_embeds), in adapters and in "
        f"attention masks that leave a row nothing to attend to; the model is in {dtype}."
    )


def _not_finite(named: tuple[str, torch.Tensor]) -> tuple[str, int]:
    name, weight = named
    if not weight.is_floating_point() or weight.device.type == "meta" or type(weight.data) is not torch.Tensor:
        return name, 0  # offloaded or packed
    return name, int((~weight.detach().isfinite()).sum())
