"""Trains the nano model from scratch on drawn scenes; `deepseek-vl train` teaches a checkpoint your own data.

A run that was stopped goes on from its last checkpoint when it is called again. Towards its end the learning rate
falls; to lengthen a finished run, name a checkpoint from before that with --resume-from and a larger number of
--pictures.
"""

import argparse
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoProcessor, set_seed

from deepseek_vl_command.arguments import add_debug
from deepseek_vl_hf.cli.console import run_command
from deepseek_vl_hf.training.curves import write_curves
from nano.cells import CellCollator, CellHead
from nano.checkpoints import check_recipe, checkpoint_to_resume
from nano.dataset import LOOKING_PICTURES, SceneDataset
from nano.model import SIZES, build_model, build_processor
from nano.optimizer import MuonWithAdamW, rate
from nano.runs import export, training_arguments
from nano.trainer import NanoTrainer

CARD = Path(__file__).parent / "nano" / "card.md"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/nano"), help="(default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=340_000, help="pictures to see (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="AdamW's (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--resume-from", type=Path, metavar="CHECKPOINT", help="(default: the last one in --output)")
    add_debug(parser)
    return parser.parse_args(arguments)


def build_trainer(options: argparse.Namespace, model: Any, processor: Any) -> NanoTrainer:
    """A trainer on drawn scenes: answers, and what stands where."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # before the optimizer looks at the weights' memory
    steps = options.pictures // options.batch_size
    looking_steps = LOOKING_PICTURES // options.batch_size
    optimizer = MuonWithAdamW(model.named_parameters(), options.learning_rate)
    scheduler = LambdaLR(optimizer, partial(rate, looking_steps=looking_steps, steps=steps))
    return NanoTrainer(
        model=model,
        args=training_arguments(options, options.output / "checkpoints", steps, options.batch_size),
        optimizers=(optimizer, scheduler),
        train_dataset=SceneDataset(options.pictures, grid=math.isqrt(processor.num_image_tokens)),
        data_collator=CellCollator(processor),
    )


def load(output: Path) -> tuple[Any, Any]:
    """Fresh model and processor; a run that goes on keeps its tokenizer."""
    kept = output / "processor"
    if not kept.is_dir():
        build_processor().save_pretrained(kept)
    processor = AutoProcessor.from_pretrained(kept)
    return build_model(processor), processor


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the run's course; a run goes on only with the same."""
    return {
        "seed": options.seed,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "model": SIZES,
    }


def train(options: argparse.Namespace) -> int:
    """Runs or continues a training run, writes model, loss curve and recipe to `options.output`; returns 0.

    Raises:
        ValueError: a checkpoint that is damaged or of another run.
    """
    if not 0 < options.batch_size <= options.pictures:
        raise ValueError(f"Found {options.pictures} pictures in batches of {options.batch_size}; that makes no batch.")
    set_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    check_recipe(options.output, recipe(options))
    model, processor = load(options.output)
    grid = math.isqrt(processor.num_image_tokens)
    model.add_module("cell_head", CellHead(model.config.text_config.hidden_size, grid))
    checkpoint = checkpoint_to_resume(options.output / "checkpoints", options.resume_from, model)
    trainer = build_trainer(options, model, processor)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    write_curves(trainer.state.log_history, options.output, parts=("answer_loss", "cell_loss"))
    del model.cell_head
    export(model, processor, options.output / "model", CARD)
    return 0


def main() -> int:
    """Runs the command; returns the exit status."""
    return run_command(train, parse())


if __name__ == "__main__":
    sys.exit(main())
