"""A training run from beginning to end.

settings
  --conversations read and checked--> lengths; every fault is told before a model is loaded
  --model loaded, parts frozen or adapters added--> a table of what learns
  --transformers' Trainer--> checkpoints, from the last of which a stopped run goes on
  --result--> adapters, or a checkpoint in the source's type, with the processor
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PrinterCallback, TrainingArguments, set_seed

from ..checkpoints.layouts.files import named_folder
from ..checkpoints.layouts.small_files import open_processor
from ..models.families import config_of
from ..quantization import int4_config
from .collator import ConversationCollator
from .data import CheckedRow, Progress, check_rows, fingerprint_of, load_data
from .lora import with_adapters
from .packing import PackCollator, Packs, Rows, packs_of
from .processes import add_up_in_float32, check_launcher, fully_sharded, of_first
from .recipes import Part, set_what_learns, table_of_parts
from .result import write_result
from .runs import begin, end, fingerprint_of_model, last_complete_checkpoint
from .settings import TrainingSettings, check_installed, trainer_arguments
from .trainer import ConversationTrainer, Report, Reports


@dataclass(frozen=True)
class _Conversations:
    """Rows that were checked, and what was seen of each."""

    rows: Rows
    checked: list[CheckedRow]


class _Run:
    """One run; see the module's docstring."""

    def __init__(self, settings: TrainingSettings, report: Report, progress: Callable[[str], Progress]) -> None:
        check_installed(settings)
        self.settings = settings
        self.folder = named_folder(settings.model)
        self.config = config_of(self.folder)
        self.processor = open_processor(self.folder)
        self._check_recipe()
        self.arguments = trainer_arguments(settings, self.config)
        check_launcher(self.arguments)
        self.is_first = self.arguments.process_index == 0
        self.report: Report = report if self.is_first else _no_report
        self.progress = progress

    def _check_recipe(self) -> None:
        quantized = getattr(self.config, "quantization_config", None) is not None
        if quantized and (not self.settings.recipe.lora or self.settings.recipe.int4):
            raise ValueError(f"{self.settings.model} has quantized weights already; expected --lora without --int4.")
        if fully_sharded() and (quantized or self.settings.recipe.int4):
            raise ValueError(
                "Found 4-bit weights, and a launcher's config that spreads weights over processes; they can only be "
                "whole in each. Leave that config out, or --int4."
            )

    def collator(self, mixed: bool) -> ConversationCollator:
        """Of batches; `mixed` says whether some conversations have pictures and others none."""
        return ConversationCollator(
            self.processor,
            max_length=self.settings.max_length,
            truncation=self.settings.truncate,
            packed=self.settings.pack,
            answers_only=True,
            picture_in_every_batch=mixed and self.arguments.world_size > 1,
        )

    def read(self, name: str, what: str) -> _Conversations:
        """Conversations, checked by the first process for all."""
        data = load_data(name, self.processor.image_token)
        needs_pictures = self.settings.recipe.needs_pictures(self.config.model_type)
        collator = self.collator(mixed=False)
        checked = of_first(lambda: check_rows(data, collator, needs_pictures, self.progress(what)))
        return _Conversations(data.rows, checked)

    def load(self) -> Any:
        """The model with what learns in float32 and everything else in the type that is computed in."""
        settings, recipe = self.settings, self.settings.recipe
        set_seed(settings.seed)  # adapters begin alike in all processes
        if recipe.lora:
            quantized = {"quantization_config": int4_config(device=self.arguments.device)} if recipe.int4 else {}
            model = self._open(dtype=settings.compute_dtype, **quantized)
            return with_adapters(model, recipe.lora, recipe.experts, self._origin(), in_float32=not fully_sharded())
        model = self._open(dtype=torch.float32 if fully_sharded() else "auto")
        set_what_learns(model, recipe.parts(self.config.model_type))
        for parameter in () if fully_sharded() else model.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else settings.compute_dtype)
        model.config.text_config.output_router_logits = recipe.learns_routing(self.config)
        return model

    def _origin(self) -> str:
        """How adapters name their model: by its Hub repository, or where its folder is."""
        of_hub = "/" in self.settings.model and not Path(self.settings.model).exists()
        return self.settings.model if of_hub else str(self.folder.resolve())

    def _open(self, **options: Any) -> Any:
        where = {"device_map": {"": self.arguments.device}} if "quantization_config" in options else {}
        model = AutoModelForImageTextToText.from_pretrained(self.folder, **options, **where)
        if fully_sharded():
            # All at once: a layer's weights come together whenever any process runs it, so all run it equally often.
            model.image_batch_size = sys.maxsize
        return model

    def trainer(self, model: Any, learned: _Conversations, held_out: _Conversations | None) -> ConversationTrainer:
        """The trainer, with the data put together."""
        checked = [*learned.checked, *(held_out.checked if held_out else ())]
        collator = self.collator(mixed=len({row.has_pictures for row in checked}) > 1)
        questions = []
        for row in (held_out.rows[number] for number in range(self._asked(held_out))) if held_out else ():
            questions.append((row["place"], collator.conversation(row, row["place"])))
        trainer = ConversationTrainer(
            model=model,
            args=self.arguments,
            data_collator=PackCollator(collator),
            train_dataset=Packs(learned.rows, self._packs(learned, collator)),
            eval_dataset=Packs(held_out.rows, self._packs(held_out, collator)) if held_out else None,
            processing_class=self.processor,
            callbacks=[Reports(self.report, self.settings.output)],
            tower_share=self.settings.recipe.tower_share(self.config),
            questions=questions,
        )
        trainer.remove_callback(PrinterCallback)
        add_up_in_float32(trainer)
        return trainer

    def _asked(self, held_out: _Conversations) -> int:
        if self.settings.answers and fully_sharded():
            self.report("Held-out questions are not asked while weights are spread over processes; their loss is told.")
            return 0
        return min(self.settings.answers, len(held_out.rows))

    def _packs(self, conversations: _Conversations, collator: ConversationCollator) -> list[list[int]] | None:
        if not self.settings.pack:
            return None
        packs = packs_of([row.length for row in conversations.checked], collator.max_length)
        self.report(
            f"{len(conversations.rows)} conversations in {len(packs)} packs of at most {collator.max_length} tokens"
        )
        return packs


def train(settings: TrainingSettings, report: Report, progress: Callable[[str], Progress]) -> None:
    """Trains, or goes on where a run was stopped, and writes the result to `settings.output`.

    Args:
        settings: what is to be done.
        report: receives lines of text.
        progress: makes a progress bar by its name.

    Raises:
        ImportError: a package that was asked for is not installed.
        MemoryError: there is too little of it.
        OSError: something cannot be read or written.
        ValueError: data, model or settings are at fault, the loss is no number, or the folder holds another run.
    """
    run = _Run(settings, report, progress)
    learned = run.read(settings.data, "checking rows")
    held_out = run.read(settings.evaluation, "checking held-out rows") if settings.evaluation else None
    report_rows(run.report, learned.checked)
    described = {
        "model": fingerprint_of_model(run.folder),
        "data": fingerprint_of(learned.checked),
        **settings.course(),
    }
    if of_first(lambda: begin(settings.output, described, settings.resume)):
        run.report(f"The run in {settings.output} has ended already; nothing is left to do.")
        return
    with _naming_lack_of_memory(settings, run.arguments):
        model = run.load()
        for line in lines_of(table_of_parts(model)):
            run.report(line)
        trainer = run.trainer(model, learned, held_out)
        trainer.train(resume_from_checkpoint=of_first(lambda: _checkpoint(settings, run.report)))
        parts = settings.recipe.parts(run.config.model_type)
        write_result(trainer, run.folder, parts, settings.output)
    if run.is_first:
        end(settings.output)
    run.report(f"Wrote {settings.output}")


def _checkpoint(settings: TrainingSettings, report: Report) -> str | None:
    """The checkpoint to go on from."""
    checkpoint, passed_over = last_complete_checkpoint(settings.output)
    for line in passed_over:
        report(line)
    if checkpoint is not None:
        report(f"Going on from {checkpoint}")
    return str(checkpoint) if checkpoint else None


def report_rows(report: Report, rows: list[CheckedRow]) -> None:
    """Says how many conversations there are."""
    with_pictures = sum(row.has_pictures for row in rows)
    longest = max(row.length for row in rows)
    report(f"{len(rows)} conversations, {with_pictures} with pictures; the longest has {longest} tokens")


def lines_of(parts: list[Part]) -> Iterator[str]:
    """The table of what learns."""
    yield f"{'part':<16} {'parameters':>15} {'learning':>15}"
    total = Part("all", sum(part.parameters for part in parts), sum(part.learning for part in parts))
    for part in (*parts, total):
        yield f"{part.name:<16} {part.parameters:>15,} {part.learning:>15,}"


@contextmanager
def _naming_lack_of_memory(settings: TrainingSettings, arguments: TrainingArguments) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        told = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        if not told:
            raise
        where = "GPU" if arguments.device.type == "cuda" else "machine"
        remedies = [f"--device-batch-size (now {arguments.per_device_train_batch_size})", "--max-length"]
        options = [] if settings.checkpointing else ["--checkpointing"]
        options += ["--lora 16"] if not settings.recipe.lora else [] if settings.recipe.int4 else ["--int4"]
        raise ValueError(
            f"The {where} has too little memory. Lower {' or '.join(remedies)}"
            f"{', or pass ' + ' or '.join(options) if options else ''}. docs/training.md says what each recipe needs."
        ) from error


def _no_report(line: str) -> None:
    pass
