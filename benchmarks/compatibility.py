"""Runs the parity tests on every minor release of transformers that the package admits, and on older ones of Pillow.

A release goes into a folder that is looked up before the environment, whose other packages stay: those of `make test`.
Another Python or torch is another environment; run there with --add, which keeps what the file has of others.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from environment import RESULTS, commit, report
from suites import ROOT, install, run_tests, versions

PACKAGES = ("transformers", "torch", "pillow", "numpy", "tokenizers", "huggingface_hub")
KEY = ("python", "torch", "transformers", "pillow")
PILLOWS = ("10.1", "12")


def releases() -> list[str]:
    """The minor releases of transformers between the bounds in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    bounds = re.search(r'"transformers>=5\.(\d+),<5\.(\d+)"', text)
    if bounds is None:
        raise ValueError("pyproject.toml has no range 'transformers>=5.X,<5.Y'.")
    return [f"5.{minor}" for minor in range(int(bounds.group(1)), int(bounds.group(2)))]


def run(package: str, release: str, tests: list[str]) -> dict[str, Any]:
    """Runs tests with one package in another release; of one that this Python cannot have it tells that alone.

    Raises:
        RuntimeError: pip could not install it for another reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = install("--no-deps", "--target", folder, f"{package}=={release}.*")
        if result.returncode and "require a different python version" not in result.stderr:
            raise RuntimeError(f"{package} {release} could not be installed: {result.stderr.strip()}")
        if result.returncode:
            used = {**versions(PACKAGES), package: release}
            return {**used, "commit": commit(), "passed": None}
        outcome = run_tests(tests, [Path(folder)])
        return {**versions(PACKAGES, [Path(folder)]), "commit": commit(), **outcome}


def order(key: tuple[str, ...]) -> list[list[int]]:
    """Makes versions sort by their numbers."""
    return [[int(part) for part in re.findall(r"\d+", name)] for name in key]


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Old and new runs in order; a new run takes the place of an old one with the same versions."""
    runs = {tuple(entry[name] for name in KEY): entry for entry in [*old, *new]}
    return [runs[key] for key in sorted(runs, key=order)]


def main() -> None:
    """Runs, and prints or stores what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", nargs="*", metavar="5.X", help="of transformers, instead of all")
    parser.add_argument("--pillows", nargs="*", metavar="X", default=PILLOWS, help="further releases of Pillow")
    parser.add_argument("--unit", action="store_true", help="run the unit tests, too")
    parser.add_argument("--add", action="store_true", help="keep the runs in results/compatibility.json")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    tests = ["tests/parity", *(["tests/unit"] if arguments.unit else [])]
    wanted = [
        ("transformers", release) for release in (releases() if arguments.releases is None else arguments.releases)
    ]
    wanted += [("pillow", release) for release in arguments.pillows]
    runs = [{**run(package, release, tests), "tests": tests} for package, release in wanted]
    stored = RESULTS / "compatibility.json"
    old = json.loads(stored.read_text(encoding="utf-8"))["runs"] if arguments.add and stored.is_file() else []
    report("compatibility", {"runs": merged(old, runs)}, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
