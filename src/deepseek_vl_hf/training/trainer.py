"""transformers' `Trainer`, told what is particular here; the loop is its own.

It is taken rather than TRL's `SFTTrainer` because it leaves batches to the collator: TRL makes its own of pictures,
learns their places by default, and refuses to pack them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from transformers import Trainer, TrainerCallback

from ..conversation.messages import Conversation
from ..hf.versions import CHECKPOINTING
from .curves import write_curves
from .evaluation import answers_of, write_answers
from .recipes import SIGLIP, part_of

Report = Callable[[str], None]
# Of a batch whose loss is no number, as many rows are named.
SHOWN_ROWS = 8


class ConversationTrainer(Trainer):
    """A `Trainer` that stops where the loss is no number, names the rows, and asks held-out questions.

    Args:
        tower_share: the SigLIP tower's learning rate as a share of the others'.
        questions: where each held-out conversation stands, and its messages.
        **arguments: of transformers' `Trainer`.
    """

    def __init__(
        self, *, tower_share: float = 1.0, questions: Sequence[tuple[str, Conversation]] = (), **arguments: Any
    ) -> None:
        self._tower_share = tower_share
        self._questions = questions
        super().__init__(**arguments)
        if getattr(self.args, CHECKPOINTING):
            # Otherwise autocast's copies of all weights that learn, 13 GB at 7 billion, would be kept until the forward
            # pass ends, although layers make them anew for their gradients.
            self.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """See transformers' `Trainer.compute_loss`.

        Raises:
            ValueError: the loss is NaN or infinite.
        """
        inputs = {**inputs}
        places = inputs.pop("places")
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if not loss.isfinite().all():
            named = ", ".join(places[:SHOWN_ROWS]) + (" ..." if len(places) > SHOWN_ROWS else "")
            raise ValueError(
                f"The loss of step {self.state.global_step + 1} is {loss.detach().mean().item()}, of these rows: "
                f"{named}. The last checkpoint is whole. Lower --learning-rate, or compute in another --dtype."
            )
        return result

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """See transformers' `Trainer.create_optimizer`; the tower gets parameter groups of its own."""
        made = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if made or self._tower_share == 1:
            return optimizer
        named = (model or self.model).named_parameters()
        tower = {id(parameter) for name, parameter in named if part_of(name) == SIGLIP}
        for group in [*optimizer.param_groups]:
            of_tower = [parameter for parameter in group["params"] if id(parameter) in tower]
            if of_tower:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in tower]
                optimizer.add_param_group({**group, "params": of_tower, "lr": group["lr"] * self._tower_share})
        return optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """See transformers' `Trainer.evaluate`; adds `eval_exact`, the share of questions that are answered exactly.

        The answers are written to `answers-STEP.jsonl`. The first process asks alone, so no part of a model's weights
        may lie with others.
        """
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        if not self._questions:
            return metrics
        if self.is_world_process_zero():
            model = self.accelerator.unwrap_model(self.model)
            with self.autocast_smart_context_manager():
                answers = answers_of(
                    model, self.processing_class, self._questions, self.args.per_device_eval_batch_size
                )
            write_answers(answers, Path(self.args.output_dir) / f"answers-{self.state.global_step}.jsonl")
            exact = sum(answer.is_exact for answer in answers) / len(answers)
            self.log({"eval_exact": exact})
            metrics["eval_exact"] = exact
        self.accelerator.wait_for_everyone()
        return metrics


class Reports(TrainerCallback):
    """Tells what happens in lines, and keeps the loss curve up to date.

    Args:
        report: receives a line.
        folder: of the curve.
    """

    def __init__(self, report: Report, folder: Path) -> None:
        self._report, self._folder = report, folder

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """A line for each logged loss."""
        names = {"loss": "loss", "eval_loss": "loss on held-out rows", "eval_exact": "held-out answers exact"}
        told = [f"{label} {_short(logs[name])}" for name, label in names.items() if logs and name in logs]
        if told and state.is_world_process_zero:
            self._report(f"step {state.global_step} of {state.max_steps}: {', '.join(told)}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last step's loss is logged, too, wherever it falls."""
        control.should_log = control.should_log or state.global_step == state.max_steps

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The curve so far, beside each checkpoint."""
        if state.is_world_process_zero:
            write_curves(state.log_history, self._folder)


def _short(value: float) -> str:
    return f"{value:.4g}"
