"""Times a newcomer's first minutes: README's install block in an empty folder, then its first snippet.

    python benchmarks/newcomer.py
    python benchmarks/newcomer.py --with-pip

The lines are read from README.md, and the last commit of this checkout is cloned in place of the address there. With
--with-pip, for machines whose package index only pip is set up for, pip stands in place of uv, and torch comes as the
tests have it. Then the same snippet runs from a wheel, in another folder and with the clone gone.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import report

ROOT = Path(__file__).parents[1]
RIGHT = "left"
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)


def main() -> int:
    """Runs and times the lines; writes the report. Returns 1 if an answer is not the right one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with-pip", action="store_true", help="pip in place of uv")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    options = parser.parse_args()
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    install = next(code for kind, code in blocks if kind == "bash").strip().splitlines()
    snippet = next(code for kind, code in blocks if kind == "python")
    with tempfile.TemporaryDirectory() as folder:
        steps = list(follow(Path(folder), _lines(install, options.with_pip)))
        steps.append(answer(Path(folder), Path(folder) / "deepseek_vl_hf", snippet, "the first snippet"))
        wheel = from_a_wheel(Path(folder), snippet)
    seconds = sum(step["seconds"] for step in steps)
    figures = {"with_pip": options.with_pip, "steps": steps, "seconds_to_the_answer": round(seconds, 1), "wheel": wheel}
    report("newcomer", figures, stored=not options.no_result)
    return 0 if {steps[-1]["answer"], wheel["answer"]} == {RIGHT} else 1


def _lines(install: list[str], with_pip: bool) -> list[str]:
    """README's lines, with this checkout in place of the address."""
    lines = [re.sub(r"git clone \S+", f"git clone --quiet {ROOT}", line) for line in install]
    if not with_pip:
        return lines
    without_uv = [line.replace("uv pip", "pip") for line in lines if line != "pip install uv"]
    return [re.sub(r"install torch .*", "install -r requirements/torch.txt", line) for line in without_uv]


def follow(folder: Path, lines: list[str]) -> Any:
    """Runs the lines in a new environment, one after the other; each with its time."""
    yield timed("python -m venv", [sys.executable, "-m", "venv", str(folder / "environment")], folder)
    place = folder
    for line in lines:
        yield timed(line.replace(str(ROOT), "ADDRESS"), ["bash", "-c", f"{_activate(folder)} && {line}"], place)
        if "&& cd " in line:
            place = folder / line.rpartition("&& cd ")[2].strip()


def _activate(folder: Path) -> str:
    return f"source {folder / 'environment' / 'bin' / 'activate'}"


def timed(name: str, command: list[str], place: Path) -> dict[str, Any]:
    """One step: its line and seconds.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    start = time.perf_counter()
    subprocess.run(command, cwd=place, check=True)
    return {"line": name, "seconds": round(time.perf_counter() - start, 2)}


def answer(folder: Path, place: Path, snippet: str, name: str) -> dict[str, Any]:
    """Runs the snippet in the environment; its time and what it printed."""
    start = time.perf_counter()
    command = [str(folder / "environment" / "bin" / "python"), "-c", snippet]
    printed = subprocess.run(command, cwd=place, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"line": name, "seconds": round(time.perf_counter() - start, 2), "answer": printed.strip()}


def from_a_wheel(folder: Path, snippet: str) -> dict[str, Any]:
    """The same answer from a wheel in place of the clone, which is removed, in an empty folder."""
    clone, empty = folder / "deepseek_vl_hf", folder / "elsewhere"
    empty.mkdir()
    pip = [str(folder / "environment" / "bin" / "python"), "-m", "pip"]
    built = timed("pip wheel", [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(clone)], folder)
    [wheel] = folder.glob("*.whl")
    size = wheel.stat().st_size
    shutil.rmtree(clone)
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel)], cwd=folder, check=True)
    found = answer(folder, empty, snippet, "the first snippet, from a wheel")
    return {"build_seconds": built["seconds"], "megabytes": round(size / 1e6, 1), **found}


if __name__ == "__main__":
    sys.exit(main())
