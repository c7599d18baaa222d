"""What a measurement is written down with: machine, versions, threads and commit."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("transformers", "torch", "tokenizers", "pillow", "numpy", "safetensors")


def environment() -> dict[str, Any]:
    """The facts that decide figures."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "commit": commit(),
    }


def processor_name() -> str:
    """The processor's name where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit that was measured, with a note if the tree differs from it."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)

    head = git("rev-parse", "--short", "HEAD")
    if head.returncode:
        return None
    changed = git("status", "--porcelain", "--", "../src").stdout.strip()
    return head.stdout.strip() + (" and uncommitted changes" if changed else "")


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Writes `results/NAME.json`: the environment and the figures."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **result}, indent=2) + "\n", encoding="utf-8")
    return path


def report(name: str, figures: dict[str, Any], *, stored: bool) -> None:
    """Prints the figures with their environment, written as `results/NAME.json` or not."""
    if stored:
        print(write_result(name, figures).read_text(encoding="utf-8"))
    else:
        print(json.dumps({"environment": environment(), **figures}, indent=2))
