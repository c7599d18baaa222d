"""The arguments of `train` and `merge`."""

import argparse

from . import values

LAYOUTS = ("transformers", "original")
DTYPES = ("bfloat16", "float32", "float16")


def add_train(parser: argparse.ArgumentParser) -> None:
    """Describes the command line of `train`."""
    parser.add_argument(
        "data",
        metavar="DATA",
        type=values.name,
        help="JSON lines, a folder saved by `datasets`, or a data set on the Hub",
    )
    parser.add_argument(
        "--model", metavar="MODEL", type=values.name, required=True, help="folder or Hub repository, in either layout"
    )
    parser.add_argument("--output", metavar="OUT", type=values.name, required=True, help="folder for the run")
    _add_recipe(parser.add_argument_group("what to train (one of the first three)"))
    _add_course(parser.add_argument_group("schedule"))
    _add_device(parser.add_argument_group("machine"))
    _add_watching(parser.add_argument_group("progress"))


def _add_recipe(group: argparse._ArgumentGroup) -> None:
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--lora", metavar="RANK", type=values.count, help="adapters on the language model, for example 16"
    )
    which.add_argument(
        "--stage",
        type=int,
        choices=(1, 2, 3),
        help="a stage of the papers: 1 aligner (VL2: and tower), 2 also the\nlanguage model, 3 everything but SAM",
    )
    which.add_argument("--full", action="store_true", help="train every weight")
    group.add_argument("--int4", action="store_true", help="load the model with 4-bit weights, for --lora")
    group.add_argument("--experts", action="store_true", help="put adapters on VL2's routed experts, too")


def _add_course(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--epochs",
        type=values.positive,
        metavar="N",
        default=1.0,
        help="passes over all rows (default: %(default)g)",
    )
    group.add_argument(
        "--max-steps", type=values.count, metavar="N", help="train for this many steps, whatever --epochs says"
    )
    group.add_argument(
        "--batch-size", type=values.count, metavar="N", default=16, help="rows per step (default: %(default)s)"
    )
    group.add_argument(
        "--learning-rate", type=values.positive, metavar="N", help="peak rate (default: the papers'; 2e-4 for adapters)"
    )
    group.add_argument(
        "--max-length", type=values.count, metavar="N", help="most tokens in a row (default: the model's)"
    )
    group.add_argument("--truncate", action="store_true", help="cut longer rows instead of refusing them")
    group.add_argument("--pack", action="store_true", help="put several rows together, up to --max-length")
    group.add_argument(
        "--optimizer",
        type=values.name,
        metavar="NAME",
        default="adamw_torch",
        help="a value of TrainingArguments.optim; adamw_bnb_8bit\ntakes a quarter of the memory (default: %(default)s)",
    )
    group.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")


def _add_device(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device-batch-size",
        type=values.count,
        metavar="N",
        help="rows that a device holds at once (default: up to 4)",
    )
    group.add_argument("--checkpointing", action="store_true", help="save memory by computing layers twice")
    group.add_argument("--dtype", choices=DTYPES, help="number type to compute in (default: the fastest here)")
    group.add_argument("--cpu", action="store_true", help="do not use a GPU")


def _add_watching(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--eval", metavar="DATA", type=values.name, help="held-out rows, for their loss and for answers")
    group.add_argument(
        "--answers",
        type=values.number,
        metavar="N",
        default=64,
        help="how many held-out rows to answer (default: %(default)s)",
    )
    group.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUT")
    group.add_argument(
        "--save-steps", type=values.count, metavar="N", help="steps between checkpoints (default: a tenth of the run)"
    )
    group.add_argument(
        "--log-steps",
        type=values.count,
        metavar="N",
        default=10,
        help="steps between reported losses (default: %(default)s)",
    )
    group.add_argument(
        "--report-to",
        metavar="NAME",
        action="append",
        default=[],
        help="tensorboard, trackio, wandb ...; may be repeated",
    )


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Describes the command line of `merge`."""
    parser.add_argument("adapters", metavar="OUT", type=values.name, help="folder of a run with --lora")
    parser.add_argument("--output", metavar="DST", type=values.name, required=True, help="folder to create")
    parser.add_argument(
        "--model", metavar="MODEL", type=values.name, help="model of the adapters (default: the one they name)"
    )
    parser.add_argument("--to", choices=LAYOUTS, default=LAYOUTS[0], help="layout to write (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights (default: that of MODEL)")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint at DST")
    parser.add_argument("--quiet", action="store_true", help="print only errors")
