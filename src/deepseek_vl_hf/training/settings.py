"""What a training run is asked to do, and what follows from it for transformers' `Trainer`."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..cpu.dtypes import fast_dtype
from ..hf.versions import CHECKPOINTING
from .processes import kind_of_checkpoints
from .recipes import Recipe

# As both papers have them.
BETAS = (0.9, 0.95)
LARGEST_GRADIENT_NORM = 1.0
# Of all steps, over which the learning rate rises; after them it falls along a cosine.
WARM_UP = 0.03
# Processes that prepare pictures for a GPU, for each that trains; a CPU has nothing to spare.
MOST_WORKERS = 8
# Between checkpoints, as a share of all steps where no number of them is asked for; the last two are kept.
BETWEEN_CHECKPOINTS = 0.1
KEPT = 2
# Seconds that processes wait for the first one while it checks the rows or asks held-out questions.
LONGEST_WAIT = 6 * 3600


@dataclass(frozen=True)
class TrainingSettings:
    """A run of `train`.

    Attributes:
        data: conversations: a file of JSON lines or a JSON array, a folder that `datasets` saved, or a data set's name
            on the Hub.
        model: folder or Hub repository, in either layout; or `nano`.
        output: folder of the run: checkpoints, the loss curve and the result.
        recipe: what learns.
        evaluation: conversations to be asked on the way, as `data`; None for none.
        answers: how many of these are also answered, and their answers written down.
        resume: go on with the run that is in `output`.
        epochs: how often each conversation is seen.
        max_steps: ends the run earlier or later than `epochs`.
        batch_size: conversations of a step; with `pack`, packs of them.
        device_batch_size: how many of these a device sees at once; None for as many as divide them, up to four.
        learning_rate: the largest; by default that of the recipe.
        max_length: tokens of a conversation, or of a pack; by default the model's context.
        truncate: cut longer conversations instead of refusing them.
        pack: put conversations one after the other, up to `max_length`.
        checkpointing: compute layers twice to keep less of them.
        dtype: in which is computed; by default what the device is fastest in.
        optimizer: of transformers' `TrainingArguments.optim`.
        save_steps: steps between checkpoints, and between evaluations; by default a tenth of the run.
        log_steps: steps between the losses that are logged.
        report_to: services that the loss goes to, such as tensorboard, trackio and wandb.
        seed: of everything random.
        cpu: use no GPU.
    """

    data: str
    model: str
    output: Path
    recipe: Recipe
    evaluation: str | None = None
    answers: int = 64
    resume: bool = False
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 16
    device_batch_size: int | None = None
    learning_rate: float | None = None
    max_length: int | None = None
    truncate: bool = False
    pack: bool = False
    checkpointing: bool = False
    dtype: str | None = None
    optimizer: str = "adamw_torch"
    save_steps: int | None = None
    log_steps: int = 10
    report_to: tuple[str, ...] = ()
    seed: int = 0
    cpu: bool = False

    @property
    def compute_dtype(self) -> torch.dtype:
        """In which is computed; weights that learn are float32 in any case."""
        if self.dtype:
            return getattr(torch, self.dtype)
        return fast_dtype("cpu" if self.cpu or not torch.cuda.is_available() else "cuda")

    def accumulation(self, processes: int) -> int:
        """How many batches of a device make up a step.

        Raises:
            ValueError: they do not make up the batch size.
        """
        rows = self.rows_at_once(processes)
        if self.batch_size % (rows * processes):
            raise ValueError(
                f"Found --batch-size {self.batch_size}; expected a multiple of {rows * processes}, which is "
                f"--device-batch-size {rows} times the number of processes, {processes}."
            )
        return self.batch_size // (rows * processes)

    def rows_at_once(self, processes: int) -> int:
        """How many rows a device sees at once."""
        share = self.batch_size // processes
        return self.device_batch_size or next(rows for rows in (4, 3, 2, 1) if share % rows == 0)

    def course(self) -> dict[str, Any]:
        """What decides the course of a run, to compare when it goes on."""
        own = ("epochs", "max_steps", "batch_size", "learning_rate", "max_length", "truncate", "pack", "optimizer")
        recipe = {name: getattr(self.recipe, name) for name in ("lora", "stage", "full", "int4", "experts")}
        return {
            **recipe,
            **{name: getattr(self, name) for name in (*own, "seed")},
            "checkpoints": kind_of_checkpoints(),
        }


def check_installed(settings: TrainingSettings) -> None:
    """Raises ImportError where packages are not installed that the optimizer or a service needs."""
    if "bnb" in settings.optimizer and find_spec("bitsandbytes") is None:
        raise ImportError(f"--optimizer {settings.optimizer} needs bitsandbytes: pip install bitsandbytes")
    for name in settings.report_to:
        if name not in ("all", "none") and find_spec(name) is None:
            raise ImportError(f"--report-to {name} needs the package {name}: pip install {name}")


def number_of_processes() -> int:
    """How many train together, as their launcher tells them.

    Raises:
        ValueError: there is one, and several GPUs, of which transformers would give each a part of every batch.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 and torch.cuda.device_count() > 1:
        raise ValueError(
            f"Found {torch.cuda.device_count()} GPUs and one process. Use them all with `accelerate launch -m "
            "deepseek_vl_hf train ...`, or name one: CUDA_VISIBLE_DEVICES=0 deepseek-vl train ..."
        )
    return processes


def _workers(processes: int) -> int:
    return min(MOST_WORKERS, (os.cpu_count() or 1) // processes)


def trainer_arguments(settings: TrainingSettings, config: Any) -> TrainingArguments:
    """The settings of transformers' `Trainer`.

    Args:
        settings: of the run.
        config: the model's.

    Raises:
        ValueError: see `TrainingSettings.accumulation` and `number_of_processes`.
    """
    recipe, dtype, processes = settings.recipe, settings.compute_dtype, number_of_processes()
    on_cpu = settings.cpu or not torch.cuda.is_available()
    every = settings.save_steps or BETWEEN_CHECKPOINTS
    # The balance loss wants the routers' logits with their graph.
    checkpointing: dict[str, Any] = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}}
    checkpointing = checkpointing if settings.checkpointing else {}
    return TrainingArguments(
        output_dir=str(settings.output),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.rows_at_once(processes),
        per_device_eval_batch_size=settings.rows_at_once(processes),
        gradient_accumulation_steps=settings.accumulation(processes),
        learning_rate=settings.learning_rate or recipe.learning_rate(config),
        weight_decay=recipe.weight_decay(config),
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=LARGEST_GRADIENT_NORM,
        lr_scheduler_type="cosine",
        warmup_steps=WARM_UP,
        optim=settings.optimizer,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=on_cpu,
        dataloader_num_workers=0 if on_cpu else _workers(processes),
        ddp_find_unused_parameters=False,
        ddp_timeout=LONGEST_WAIT,
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
        logging_nan_inf_filter=False,
        logging_steps=settings.log_steps,
        logging_first_step=True,
        save_steps=every,
        save_total_limit=KEPT,
        eval_strategy="steps" if settings.evaluation else "no",
        eval_steps=every,
        seed=settings.seed,
        data_seed=settings.seed,
        report_to=list(settings.report_to),
        **checkpointing,
    )
