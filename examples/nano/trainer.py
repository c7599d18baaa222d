"""transformers' `Trainer` with the second task of `cells` beside the answers."""

from collections import defaultdict
from typing import Any

import torch
from transformers import Trainer

CELL_WEIGHT = 1.0  # of the labels beside the answers


class NanoTrainer(Trainer):
    """A `Trainer` whose model has a `cell_head` and whose batches may have `cells`; both losses are logged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loss_parts: dict[str, list[float]] = defaultdict(list)
        super().__init__(*args, **kwargs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of the answers, plus that of the cells."""
        cells = inputs.pop("cells")
        if "labels" not in inputs:
            return self._looking_loss(model, inputs, cells)
        _freeze_towers(model)
        answers, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        cell_loss = model.cell_head.loss(outputs.image_hidden_states, cells)
        self.add_up("answer_loss", answers)
        self.add_up("cell_loss", cell_loss)
        loss = answers + CELL_WEIGHT * cell_loss
        return (loss, outputs) if return_outputs else loss

    def _looking_loss(self, model: Any, pixels: dict[str, Any], cells: torch.Tensor) -> torch.Tensor:
        """The loss of the cells alone, of pictures without questions."""
        with self.accelerator.autocast():  # else only `forward` runs in bfloat16, and this is another method
            loss = model.cell_head.loss(model.get_image_features(**pixels).pooler_output, cells)
        self.add_up("cell_loss", loss)
        return CELL_WEIGHT * loss

    def add_up(self, name: str, value: torch.Tensor) -> None:
        """Remembers a part of the loss until it is logged."""
        self._loss_parts[name].append(value.item())

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs the means of the parts since the last time, too."""
        means = {name: sum(values) / len(values) for name, values in self._loss_parts.items()}
        self._loss_parts.clear()
        super().log({**logs, **means}, *args, **kwargs)


def _freeze_towers(model: Any) -> None:
    """Keeps what the towers learned by looking: gradients of the first answers, which are guesses, would undo it."""
    model.model.vision_model.requires_grad_(False)
    model.model.high_res_vision_model.requires_grad_(False)
    model.model.high_res_vision_neck.requires_grad_(False)
