"""`deepseek-vl verify-real`: a published checkpoint, checked on a machine that has it or the Hub."""

import argparse
import json
import platform
import sys
from importlib.metadata import version

from ..checkpoints.conversion.real import verify_checkpoint
from ..checkpoints.layouts.files import named_folder
from ..version import __version__
from .console import bars_on_terminals, byte_bar

PACKAGES = ("transformers", "torch", "tokenizers", "pillow")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 0 if nothing differs.

    Raises:
        OSError: a file is missing, or the disk is full.
    """
    if not arguments.report.resolve().parent.is_dir():
        raise FileNotFoundError(f"{arguments.report.parent} is no folder. Name a --report in one that exists.")
    bars_on_terminals()
    folder = named_folder(arguments.model)
    try:
        figures = verify_checkpoint(folder, arguments.work_dir, report=print, progress=byte_bar)
    except ValueError as error:  # the checkpoint fails: that is a result, too
        figures = {"passed": False, "error": str(error)}
        print(f"error: {error}", file=sys.stderr)
    content = {
        "model": arguments.model,
        "python": platform.python_version(),
        "versions": {"deepseek_vl_hf": __version__, **{package: version(package) for package in PACKAGES}},
        **figures,
    }
    arguments.report.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{'Passed' if figures['passed'] else 'FAILED'}; report in {arguments.report}")
    return 0 if figures["passed"] else 1
