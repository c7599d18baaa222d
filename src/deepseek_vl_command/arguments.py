"""The arguments of all commands. What runs them stands in `deepseek_vl_hf.cli`, in a module of each command's name."""

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import values
from .describing import add_many, check_many, question_in_file
from .ocr import add_ocr, check_ocr
from .training import add_merge, add_train

# What the help shows of the package is settled there; tests/unit/test_command.py compares, nothing is imported here.
NANO = "nano"
ENGINES = ("auto", "transformers", "vllm")
SAMPLING: dict[str, Any] = {"max_new_tokens": 512, "temperature": 0.2, "top_p": 0.95, "repetition_penalty": 1.1}
TRANSFORMERS, ORIGINAL = "transformers", "original"
SHARD_SIZE = "5GB"
GROUP_SIZES = (32, 64, 128)

QUESTION = "Describe the picture."
KNOWS_SCENES = "The default model, nano, knows only drawn scenes: shapes, strings, bar charts."
OF_THE_CHECKPOINT = "folder or Hub repository of the checkpoint"


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: its line in the list of commands.
        description: what its own help begins with.
        add_arguments: describes its command line.
    """

    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; `command` of the result is the command's name.

    Raises:
        SystemExit: help or the version was asked for (0), or the arguments are wrong (2).
    """
    parser = argparse.ArgumentParser(prog="deepseek-vl", description="DeepSeek-VL models in transformers.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    add_debug(parser)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    parsers = {}
    for name, command in COMMANDS.items():
        parsers[name] = commands.add_parser(
            name,
            help=command.summary,
            description=command.description,
            formatter_class=argparse.RawTextHelpFormatter,
        )
        command.add_arguments(parsers[name])
        add_debug(parsers[name], default=argparse.SUPPRESS)  # it may stand before the command as well
    words, for_engine = _without_engine_arguments(sys.argv[1:] if arguments is None else arguments)
    parsed = parser.parse_args(words)
    if parsed.command == "serve":
        parsed.engine_arguments = for_engine
    if parsed.command == "convert" and parsed.destination is None and not parsed.dry_run:
        parsers["convert"].error("DST is missing. Name the folder to create, or pass --dry-run.")
    if parsed.command == "describe":
        check_many(parsers["describe"], parsed)
    if parsed.command == "ocr":
        check_ocr(parsers["ocr"], parsed)
    return parsed


def _without_engine_arguments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words, and what `serve` is given after `--`: an engine's own arguments.

    To argparse, and so to the other commands, what stands there is no option although it may begin with a dash.
    """
    command = next((word for word in words if not word.startswith("-")), None)
    place = words.index("--") if command == "serve" and "--" in words else len(words)
    return [*words[:place]], [*words[place + 1 :]]


def add_debug(parser: argparse.ArgumentParser, default: Any = False) -> None:
    """The option that every program has whose errors become one line."""
    parser.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")


def _version() -> str:
    """That of the package beside this one, read without importing it."""
    path = Path(__file__).parents[1] / "deepseek_vl_hf" / "version.py"
    return str(runpy.run_path(str(path))["__version__"])


def _chat(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--image", metavar="FILE", action="append", default=[], help="picture for the first message; may be repeated"
    )
    _add_model_arguments(parser)


def _describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", help="file, folder of pictures, or URL")
    question = parser.add_mutually_exclusive_group()
    question.add_argument(
        "-p",
        "--prompt",
        type=values.text,
        help=f"the question (default: {QUESTION} nano is also\nasked to read the text; its surer answer counts)",
    )
    question.add_argument(
        "--prompt-file",
        type=question_in_file,
        dest="prompt",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="a text file with the question",
    )
    parser.add_argument(
        "--model", type=values.name, default=NANO, help="folder or Hub repository (default: %(default)s)"
    )
    parser.add_argument("--together", action="store_true", help="ask once, about all pictures")
    parser.add_argument(
        "--json", action="store_true", help="print each answer as a JSON object with its figures,\none per line"
    )
    add_many(parser)
    _add_model_arguments(parser)


def _demo(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_address(parser, 7860)
    _add_model_arguments(parser)


def _serve(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="auto takes vLLM where it is installed and can serve\nthe model (default: %(default)s)",
    )
    _add_address(parser, 8000)
    parser.add_argument("--name", type=values.name, help="the model's name for clients (default: MODEL as given here)")
    parser.add_argument(
        "--api-key",
        type=values.name,
        metavar="KEY",
        help="key that clients must send (default:\n$DEEPSEEK_VL_API_KEY, or none)",
    )
    parser.add_argument(
        "--max-images",
        type=values.count,
        metavar="N",
        default=16,
        help="most pictures in a request (default: %(default)s)",
    )
    _add_loading(parser)


def _add_address(parser: argparse.ArgumentParser, port: int) -> None:
    parser.add_argument(
        "--host",
        type=values.name,
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine alone;\n0.0.0.0 is open to the network)",
    )
    parser.add_argument(
        "--port", type=values.port, default=port, metavar="N", help="port to listen on (default: %(default)s)"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        type=values.name,
        default=NANO,
        help="folder or Hub repository (default: %(default)s)",
    )


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """In what form a model is loaded, and how it answers. What is not given is the checkpoint's, without a default."""
    _add_loading(parser)
    _add_answering(parser)


def _add_loading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--int4", action="store_true", help="load the language model with 4-bit weights")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32", "float16"),
        help="type of the weights (default: what this machine computes fastest)",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="pack the weights for this machine's processor\nfirst, which takes up to two minutes for 7 billion",
    )
    parser.add_argument("--device", type=values.device, help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")


def _add_answering(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--system", type=values.text, metavar="TEXT", help='system prompt; "" for none (default: the model\'s own)'
    )
    for name, kind, remark in (
        ("max_new_tokens", values.count, ""),
        ("temperature", values.temperature, "; 0 takes the most likely token"),
        ("top_p", values.share, ""),
        ("repetition_penalty", values.penalty, ""),
    ):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, metavar="N", help=f"(default: {SAMPLING[name]}){remark}")


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=values.name, metavar="SRC", help=OF_THE_CHECKPOINT)
    parser.add_argument("destination", type=values.name, metavar="DST", nargs="?", help="folder to create")
    parser.add_argument(
        "--to", choices=(TRANSFORMERS, ORIGINAL), default=TRANSFORMERS, help="layout to write (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), help="type of the weights (default: that of SRC)"
    )
    _add_shard_size(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read DST back, compare every tensor with SRC,\nand run a prompt through both if memory allows",
    )
    result = parser.add_mutually_exclusive_group()
    result.add_argument("--dry-run", action="store_true", help="show what becomes of each tensor; write nothing")
    result.add_argument("--push-to-hub", type=values.name, metavar="REPO", help="upload DST to this Hub repository")
    _add_writing(parser)


def _quantize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=values.name, metavar="SRC", help=OF_THE_CHECKPOINT)
    parser.add_argument("destination", type=values.name, metavar="DST", help="folder to create")
    parser.add_argument(
        "--group-size",
        type=int,
        choices=GROUP_SIZES,
        default=GROUP_SIZES[-1],
        help="how many weights share a scale (default: %(default)s)",
    )
    parser.add_argument(
        "--device", type=values.device, help="cpu or cuda, where the result will run (default: cuda if there is one)"
    )
    _add_dtype(parser, "bfloat16", "float32", of="all other weights")
    _add_shard_size(parser)
    _add_writing(parser)


def _add_dtype(parser: argparse.ArgumentParser, *choices: str, of: str = "the weights") -> None:
    parser.add_argument("--dtype", choices=choices, default=choices[0], help=f"type of {of} (default: %(default)s)")


def _add_shard_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-shard-size",
        type=values.size,
        metavar="SIZE",
        default=SHARD_SIZE,
        help="largest size of a weight file (default: %(default)s)",
    )


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint at DST")
    parser.add_argument("--base-model", type=values.name, metavar="REPO", help="origin that the model card names")
    parser.add_argument("--quiet", action="store_true", help="print only errors")


def _verify_real(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=values.name, metavar="MODEL", help="folder or Hub repository, in either layout")
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        default=Path("verify-real.json"),
        help="report to write (default: %(default)s)",
    )
    parser.add_argument("--work-dir", metavar="DIR", type=Path, help="where to put the temporary folder")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


COMMANDS = {
    "chat": Command(
        "talk with a model about pictures",
        f"""A conversation about pictures; answers appear as they are generated.

{KNOWS_SCENES} Type /help in the conversation.""",
        _chat,
    ),
    "describe": Command(
        "ask one question about pictures",
        f"""Asks a question about each picture on its own and prints the answers. For many pictures:

  deepseek-vl describe FOLDER --output answers.jsonl --resume

{KNOWS_SCENES}""",
        _describe,
    ),
    "ocr": Command(
        "read documents with a DeepSeek-OCR model",
        """Reads pictures, PDF files and folders of them. Without --output the answers appear as they are generated,
with the model's marks; with it there are Markdown, figures and JSON lines:

  deepseek-vl ocr report.pdf scans/ --model path/to/model --output out --resume

PDF files need pypdfium2: pip install 'pypdfium2>=4.30'""",
        lambda parser: add_ocr(parser, _add_loading),
    ),
    "demo": Command(
        "open a web page to talk with a model",
        f"""A web page for conversations about pictures; answers appear as they are generated. It needs Gradio:
pip install 'gradio>=6'

{KNOWS_SCENES}""",
        _demo,
    ),
    "serve": Command(
        "answer OpenAI clients",
        f"""A server with OpenAI's protocol, run by transformers or by vLLM. It says which one
it took, and why. It needs vLLM, or pip install 'transformers[serving]'. Arguments after -- are passed to vLLM:

  deepseek-vl serve path/to/model --engine vllm -- --tensor-parallel-size 4

{KNOWS_SCENES}""",
        _serve,
    ),
    "train": Command(
        "fine-tune a model on conversations with pictures",
        """Trains a model on the answers in conversations. It needs:
pip install 'datasets>=4' 'matplotlib>=3.8' 'peft>=0.18'

All rows are checked before the model is loaded. OUT gets checkpoints and the loss curve, and in the end the adapters or
the model, with the processor. On several GPUs or machines:

  accelerate launch -m deepseek_vl_hf train DATA ...""",
        add_train,
    ),
    "merge": Command(
        "merge adapters into their model's weights",
        """Writes a checkpoint that has the adapters merged into the model's weights, in either layout.

Whatever happens, DST is either complete or absent.""",
        add_merge,
    ),
    "convert": Command(
        "convert a checkpoint to the transformers layout, or back",
        """Converts a DeepSeek-VL checkpoint between the original and the transformers layout.

SRC is never changed. Whatever happens, DST is either complete or absent.
Original checkpoints also load without conversion.""",
        _convert,
    ),
    "quantize": Command(
        "write a checkpoint with 4-bit weights",
        """Writes a DeepSeek-VL checkpoint whose language model has 4-bit weights.

SRC is read layer by layer, in either layout. Whatever happens, DST is either complete or absent.""",
        _quantize,
    ),
    "verify-real": Command(
        "check a published checkpoint: names, shapes, both layouts, answers",
        """Checks a checkpoint with its real weights and writes a report.

Every tensor's name and shape is checked. The checkpoint is converted to the other layout in a temporary folder, which
takes as much disk as the checkpoint, and every tensor is compared. Fixed prompts are run through both layouts, if the
model fits in memory.""",
        _verify_real,
    ),
    "doctor": Command(
        "check this installation and this machine",
        """Compares versions with the supported ranges, and shows what is installed and what this machine can do. The
output can be pasted into a bug report.

It works where the package itself cannot be loaded. The exit status is 1 if something that is required is broken.""",
        _doctor,
    ),
}
