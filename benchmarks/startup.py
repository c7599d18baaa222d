"""What starting costs: importing the package beyond transformers' Auto classes, and the command without a model.

    python benchmarks/startup.py

Processor time of interpreters of their own, all threads, started in turn so that the machine's moods hit all of them.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from environment import report

AUTO_CLASSES = "import torch; from transformers import AutoModelForImageTextToText, AutoProcessor"
COMMAND = [sys.executable, "-m", "deepseek_vl_command"]
PROGRAMS = {
    "auto_classes": [sys.executable, "-c", AUTO_CLASSES],
    "auto_classes_and_package": [sys.executable, "-c", f"{AUTO_CLASSES}\nimport deepseek_vl_hf"],
    "help": [*COMMAND, "--help"],
    "version": [*COMMAND, "--version"],
    "mistake": [*COMMAND, "describe", "--max-new-tokens", "many"],
}


def run(command: list[str]) -> tuple[float, int]:
    """Seconds of processor time that a program takes, and how many lines it writes to its error stream."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return seconds, len(result.stderr.splitlines())


def measure(repeats: int) -> dict[str, Any]:
    """Medians of all programs, each run once before that is not counted."""
    lines = {name: run(command)[1] for name, command in PROGRAMS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(repeats):
        for name, command in PROGRAMS.items():
            seconds[name].append(run(command)[0])
    pairs = zip(seconds["auto_classes"], seconds["auto_classes_and_package"], strict=True)
    beyond = statistics.median(both - alone for alone, both in pairs)
    return {
        "repeats": repeats,
        "torchao": installed("torchao"),
        "cpu_seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "package_beyond_auto_classes_cpu_seconds": round(beyond, 3),
        "lines_of_auto_classes_on_stderr": lines["auto_classes"],
        "further_lines_of_package_on_stderr": lines["auto_classes_and_package"] - lines["auto_classes"],
    }


def installed(package: str) -> str | None:
    """Version of a package that decides what transformers imports; None if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> int:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    report("startup", measure(arguments.repeats), stored=not arguments.no_result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
