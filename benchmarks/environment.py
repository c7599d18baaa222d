"""What a measurement is written down with: machine and what its processor can do, versions, threads and commit."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from deepseek_vl_hf.hf.kernels import onednn_has_bfloat16

RESULTS = Path(__file__).parent / "results"
# Of /proc/cpuinfo, what decides which kernels torch and oneDNN take: x86's names, then ARM's.
CPU_FLAGS = (
    *("avx2", "f16c", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile"),
    *("amx_bf16", "amx_int8", "amx_fp16", "asimd", "asimdhp", "asimddp", "sve", "bf16", "i8mm"),
)
# With these the libraries use less than the processor has.
CPU_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
PACKAGES = ("transformers", "torch", "tokenizers", "pillow", "numpy", "safetensors")


def environment() -> dict[str, Any]:
    """The facts that decide figures."""
    return {
        "processor": processor_name(),
        "cpu": processor_abilities(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "commit": commit(),
    }


def processor_name() -> str:
    """The processor's name where Linux tells it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def processor_abilities() -> dict[str, Any]:
    """What the processor can do, what torch and oneDNN make of it, and what was forbidden to them."""
    flags = cpuinfo("flags") or cpuinfo("Features")
    return {
        "flags": None if flags is None else [flag for flag in CPU_FLAGS if flag in flags.split()],
        "torch": torch.backends.cpu.get_cpu_capability(),
        "onednn_has_bfloat16": onednn_has_bfloat16(),
        "limits": {name: os.environ[name] for name in CPU_LIMITS if name in os.environ},
    }


def cpuinfo(name: str) -> str | None:
    """An entry of the first core in Linux's list; None where there is no list or no such entry."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)


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
