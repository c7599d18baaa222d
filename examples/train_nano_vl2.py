"""Trains the nano-vl2 model from scratch on drawn pictures: first it looks, then it answers.

A run that was stopped goes on from its last checkpoint when it is called again. Towards the end of each stage the
learning rate falls; to lengthen answering, name a checkpoint from before that with --resume-from and a larger number of
--conversations. A finished model learns more in a run of its own, with --begin-with, which does not look again.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import AutoProcessor, set_seed

from deepseek_vl_command.arguments import add_debug
from deepseek_vl_hf import DeepseekVL2ForConditionalGeneration
from deepseek_vl_hf.checkpoints.layouts.files import named_folder
from deepseek_vl_hf.cli.console import run_command
from deepseek_vl_hf.training.curves import write_curves
from nano.checkpoints import check_recipe, checkpoint_to_resume
from nano.optimizer import ANSWERING_RATE, DECAY_SHARE, TABLES, MuonWithAdamW, stage
from nano.runs import export, training_arguments
from nano_vl2.cells import CellHead
from nano_vl2.clues import CLUES, LAYER, ClueHead
from nano_vl2.dataset import CONVERSATIONS, SHARES, AnsweringDataset, LookingDataset
from nano_vl2.experts import TOGETHER
from nano_vl2.model import SIZES, build_model, build_processor, shrink_image_tokens
from nano_vl2.pointers import TOLD
from nano_vl2.trainer import AnsweringCollator, LookingCollator, NanoVL2Trainer

CARD = Path(__file__).parent / "nano_vl2" / "card.md"
# A finished model learns more at a lower rate, which falls from the beginning, and its tower learns, too: answers are
# no guesses any more. AdamW moves it by as little as its gradients say, where Muon moves each matrix by as much.
FURTHER_RATE, FURTHER_DECAY = 0.2, 1.0
TOWER = ("vision_model", "projector")
LOOKING_WEIGHTS = "looking.safetensors"  # of the finished first stage
# The layers of the second tasks are thrown away. A run that begins with a model lets fresh ones learn by themselves
# first, because what they say is random: from so many conversations, or as many as there are in a share of the run,
# which begins after those. Their rate falls early.
HEADS = ("cell_head", "clue_head")
ALONE, ALONE_CONVERSATIONS, ALONE_SHARE, ALONE_DECAY = "{}_alone.safetensors", 3200, 0.1, 0.7


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/nano-vl2"), help="(default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=96_000, help="pictures to look at (default: %(default)s)")
    parser.add_argument("--conversations", type=int, default=320_000, help="to answer in (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=16, help="pictures per step of looking (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-conversations", type=int, default=8, help="conversations per step of answering (default: %(default)s)"
    )
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="AdamW's (default: %(default)s)")
    parser.add_argument(
        "--compile", action="store_true", help="compile the language model's layers, which takes a minute or two"
    )
    parser.add_argument(
        "--begin-with", metavar="MODEL", help="nano-vl2 or a folder: answering begins with its weights and tokenizer"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=[*SHARES],
        default=[*SHARES],
        help="kinds of pictures to answer about (default: all)",
    )
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="number of the first conversation (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--resume-from", type=Path, metavar="CHECKPOINT", help="of answering (default: the last one in --output)"
    )
    add_debug(parser)
    return parser.parse_args(arguments)


def build_trainer(
    options: argparse.Namespace,
    model: Any,
    folder: Path,
    dataset: Dataset[Any],
    collator: Any,
    batch_size: int,
    factor: float = 1.0,
    decay: float = DECAY_SHARE,
) -> NanoVL2Trainer:
    """The trainer of one stage; `factor` is its share of the learning rate, which falls over `decay` of its steps."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # before the optimizer looks at the weights' memory
    steps = len(dataset) // batch_size
    tables = (*TABLES, *TOWER) if options.begin_with else TABLES
    optimizer = MuonWithAdamW(model.named_parameters(), options.learning_rate, tables)
    return NanoVL2Trainer(
        model=model,
        args=training_arguments(options, folder, steps, batch_size),
        optimizers=(optimizer, LambdaLR(optimizer, partial(_rate, steps=steps, factor=factor, decay=decay))),
        train_dataset=dataset,
        data_collator=collator,
    )


def _rate(step: int, *, steps: int, factor: float, decay: float) -> float:
    return factor * stage(step, steps, decay)


def load(output: Path, begin_with: str | None) -> tuple[Any, Any]:
    """Fresh or trained model, with the layer of the second task, and processor; a run that goes on keeps its own."""
    kept = output / "processor"
    if not kept.is_dir():
        made = AutoProcessor.from_pretrained(named_folder(begin_with)) if begin_with else build_processor()
        made.save_pretrained(kept)
    processor = AutoProcessor.from_pretrained(kept)
    if begin_with:
        folder = named_folder(begin_with)
        model = DeepseekVL2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).train()
    else:
        model = build_model(processor)
    # At this size plain products take less time than the fused ones, and all experts less than the chosen ones.
    model.set_attn_implementation({"vision_config": "eager", "text_config": "eager"})
    model.set_experts_implementation({"text_config": TOGETHER})
    model.image_batch_size = sys.maxsize  # memory is no concern
    model.add_module("cell_head", CellHead(model.config.text_config.hidden_size))
    return model, processor


def look(options: argparse.Namespace, model: Any, processor: Any) -> None:
    """The first stage, unless it is finished; writes its weights at the end."""
    finished = options.output / LOOKING_WEIGHTS
    if not finished.is_file():
        folder = options.output / "looking"
        checkpoint = checkpoint_to_resume(folder, None, model)
        dataset = LookingDataset(options.pictures)
        trainer = build_trainer(options, model, folder, dataset, LookingCollator(processor), options.batch_size)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        write_curves(trainer.state.log_history, folder, parts=("points", "boxes"))
        shrink_image_tokens(model)
        save_model(model, str(finished))
    load_model(model, str(finished))


@dataclass(frozen=True)
class Run:
    """A run of answering.

    Attributes:
        folder: where its checkpoints go.
        first: the number of its first conversation.
        conversations: how many there are.
        factor: share of the learning rate.
        decay: share of the steps over which the rate falls.
        resume_from: a checkpoint; the last one in the folder if there is none.
    """

    folder: Path
    first: int
    conversations: int
    factor: float
    decay: float
    resume_from: Path | None = None


def answer(options: argparse.Namespace, model: Any, processor: Any) -> None:
    """The second stage."""
    for part in TOWER:
        getattr(model.model, part).requires_grad_(bool(options.begin_with))
    model.add_module("clue_head", ClueHead(model.config.text_config.hidden_size))
    if options.begin_with:
        first = learn_alone(options, model, processor)
    else:
        del model.cell_head  # there is nothing to learn for the tower
        first = options.first
    if options.compile:
        layers = model.model.language_model.layers
        for layer in layers[max(LAYER, *TOLD.values()) + 1 :]:  # a hook does not go with a compiled layer
            layer.compile(dynamic=True)
    factor, decay = (FURTHER_RATE, FURTHER_DECAY) if options.begin_with else (ANSWERING_RATE, DECAY_SHARE)
    run = Run(options.output / "answering", first, options.conversations, factor, decay, options.resume_from)
    log = train_answers(options, model, processor, run)
    for name in heads_of(model):
        delattr(model, name)
    parts = ("answer_loss", *(f"{part}_loss" for part in ("boxes", *CLUES, *TOLD)))
    write_curves(log, options.output, parts=parts)


def heads_of(model: Any) -> dict[str, Any]:
    """Those of HEADS that the model has."""
    return {name: getattr(model, name) for name in HEADS if hasattr(model, name)}


def learn_alone(options: argparse.Namespace, model: Any, processor: Any) -> int:
    """Fresh layers of the second tasks learn from a model that stays as it is, unless they have done so already.

    Returns:
        The number of the first conversation that they did not see.
    """
    conversations = min(ALONE_CONVERSATIONS, int(ALONE_SHARE * options.conversations))
    conversations -= conversations % CONVERSATIONS
    if conversations < options.batch_conversations:
        return options.first
    heads = {options.output / ALONE.format(name): head for name, head in heads_of(model).items()}
    if not all(file.is_file() for file in heads):
        learning = [weight for weight in model.parameters() if weight.requires_grad]
        model.requires_grad_(False)
        for head in heads.values():
            head.requires_grad_(True)
        run = Run(options.output / "alone", options.first, conversations, 1.0, ALONE_DECAY)
        train_answers(options, model, processor, run)
        for weight in learning:
            weight.requires_grad_(True)
        for file, head in heads.items():
            save_model(head, str(file))
    for file, head in heads.items():
        load_model(head, str(file))
    return options.first + conversations


def train_answers(options: argparse.Namespace, model: Any, processor: Any, run: Run) -> list[dict[str, float]]:
    """Trains as described, or goes on with that; returns the losses."""
    checkpoint = checkpoint_to_resume(run.folder, run.resume_from, model)
    trainer = build_trainer(
        options,
        model,
        run.folder,
        AnsweringDataset(run.conversations, run.first, options.kinds),
        AnsweringCollator(processor, cells=hasattr(model, "cell_head")),
        options.batch_conversations,
        run.factor,
        run.decay,
    )
    layers = model.model.language_model.layers
    hooks = [
        layers[LAYER].register_forward_hook(model.clue_head.see),
        model.model.projector.register_forward_hook(trainer.see_projected),
        *(layers[layer].self_attn.register_forward_hook(partial(trainer.watch.see, layer)) for layer in TOLD.values()),
    ]
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    for hook in hooks:
        hook.remove()
    return trainer.state.log_history


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the run's course; a run goes on only with the same."""
    return {
        "seed": options.seed,
        "batch_size": options.batch_size,
        "batch_conversations": options.batch_conversations,
        "learning_rate": options.learning_rate,
        "pictures": options.pictures,
        "begin_with": options.begin_with,
        "first": options.first,
        "kinds": options.kinds,
        "model": SIZES,
    }


def train(options: argparse.Namespace) -> int:
    """Runs or continues a training run, writes model, loss curves and recipe to `options.output`; returns 0.

    Raises:
        ValueError: a checkpoint that is damaged or of another run, or numbers that make no batch.
        FileNotFoundError: there is no model to begin with.
    """
    for count, size, what in (
        (options.pictures, options.batch_size, "pictures"),
        (options.conversations, options.batch_conversations, "conversations"),
    ):
        if not 0 < size <= count:
            raise ValueError(f"Found {count} {what} in batches of {size}; that makes no batch.")
    set_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    check_recipe(options.output, recipe(options))
    model, processor = load(options.output, options.begin_with)
    if not options.begin_with:
        look(options, model, processor)
    answer(options, model, processor)
    export(model, processor, options.output / "model", CARD)
    return 0


def main() -> int:
    """Runs the command; returns the exit status."""
    return run_command(train, parse())


if __name__ == "__main__":
    sys.exit(main())
