"""Trains one side of `training.py` by each recipe, and prints its figures as a line of JSON.

`training.py` calls it with the side's name, the checkpoint and a folder for what `Trainer` writes.
"""

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from deepseek_vl_hf import DeepseekVLHybridForConditionalGeneration, fast_dtype
from deepseek_vl_hf.training.lora import with_adapters
from deepseek_vl_hf.training.recipes import Recipe, set_what_learns
from deepseek_vl_hf.training.settings import BETAS, LARGEST_GRADIENT_NORM
from deepseek_vl_hf.training.trainer import ConversationTrainer
from peak_memory import watched_memory
from port import PORT, PortModel
from training_rows import batches, collator

RECIPES = {"LoRA, rank 16": Recipe(lora=16), "stage 2": Recipe(stage=2), "stage 3": Recipe(stage=3)}
BATCHES_PER_STEP = 2
DTYPE = fast_dtype("cpu")


def optimizer_of(recipe: Recipe) -> str:
    """Without states where many weights learn, because those of AdamW would not fit beside them."""
    return "adamw_torch" if recipe.lora else "sgd"


def opened(way: str, checkpoint: Path, recipe: Recipe) -> Any:
    """A model as `deepseek-vl train` prepares it: what learns in float32, the rest in the type that is computed in."""
    cls = PortModel if way == PORT else DeepseekVLHybridForConditionalGeneration
    model = cls.from_pretrained(checkpoint, dtype=DTYPE)
    set_what_learns(model, recipe.parts(model.config.model_type))
    for parameter in model.parameters():
        dtype = torch.float32 if parameter.requires_grad else DTYPE
        parameter.data = parameter.data.to(dtype, copy=True)  # else it may be the file's memory, which is not counted
    if not recipe.lora:
        return model
    torch.manual_seed(0)
    return with_adapters(model, recipe.lora, experts=False, base=str(checkpoint))


class Clock(TrainerCallback):
    """When each step ended, the making of its batches included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Behind the optimizer."""
        self.ends.append(time.perf_counter())


def trainer_of(way: str, model: Any, recipe: Recipe, folder: Path, clock: Clock) -> Trainer:
    """A plain `Trainer` for the port, the package's own for ours, with the same settings."""
    data = batches(way)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=len(data) // BATCHES_PER_STEP,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=BATCHES_PER_STEP,
        train_sampling_strategy="sequential",
        learning_rate=recipe.learning_rate(model.config),
        lr_scheduler_type="constant",
        optim=optimizer_of(recipe),
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=LARGEST_GRADIENT_NORM,
        bf16=torch.bfloat16 == DTYPE,
        use_cpu=True,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    cls = Trainer if way == PORT else ConversationTrainer
    return cls(model=model, args=arguments, data_collator=collator(way), train_dataset=data, callbacks=[clock])


def kept_bytes(trainer: Trainer) -> int:
    """Weights, gradients and the optimizer's states."""
    parameters = list(trainer.model.parameters())
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    states = [value for state in trainer.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in (*parameters, *learning, *states))


def measure(way: str, recipe: Recipe, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Time and memory of one step, and its loss and gradient by which sides are compared."""
    gc.collect()  # the trainer before this one, which is part of a circle
    clock = Clock()
    trainer = trainer_of(way, opened(way, checkpoint, recipe), recipe, folder, clock)
    with watched_memory() as memory:
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "grad_norm" in entry][-1]
    return {
        "seconds": clock.ends[-1] - clock.ends[-2],
        "peak_bytes": memory.peak,
        "kept_bytes": kept_bytes(trainer),
        "loss": logged["loss"],
        "gradient_norm": logged["grad_norm"],
    }


def main() -> None:
    """Prints the figures of one side."""
    way, checkpoint, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    figures = {name: measure(way, recipe, checkpoint, folder) for name, recipe in RECIPES.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
