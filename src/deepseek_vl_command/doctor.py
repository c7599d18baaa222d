"""`deepseek-vl doctor`: what is installed and what this machine can do, also where the package cannot be imported.

Versions come from the packages' metadata and the supported ranges from this package's own, so nothing is imported
for them. What has to be imported is asked for in another process, see `probe`.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from .faults import one_line

PACKAGE = "deepseek-vl-hf"
SECONDS = 300  # for the imports, on a slow disk
# The versions that the test suite is pinned to, oldest first. requirements/ has them, but is not installed, so they are
# repeated here; tests/unit/test_requirements.py compares.
TESTED = {"transformers": ("5.18.0", "5.24.0"), "torch": ("2.13.0",)}
# Beside the package: what it is for.
OPTIONAL = {
    "torchao": "4-bit weights (--int4, quantize): a quarter of the memory",
    "gradio": "the web page (demo)",
    "pypdfium2": "ocr: pages of PDF files",
    "textual-image": "chat: pictures in terminals that show them",
    "fastapi": "serve, with transformers",
    "uvicorn": "serve, with transformers",
    "openai": "serve, with transformers",
    "vllm": "serve many clients at once",
    "peft": "training adapters (train --lora), merge",
    "datasets": "train",
    "matplotlib": "train: the picture of the loss",
    "trl": "TRL's trainers",
    "lmms-eval": "benchmarks",
}
# Run with the paths of this process, wherever they come from.
PROBE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from deepseek_vl_command.probe import main; main()"


@dataclass(frozen=True)
class Installed:
    """A package.

    Attributes:
        name: that of its distribution.
        version: None where it is not installed.
        wanted: the supported range, "" for any.
        fits: whether the version is in it; None where that cannot be told.
        use: what an optional package is for.
    """

    name: str
    version: str | None
    wanted: str
    fits: bool | None
    use: str = ""


@dataclass
class Report:
    """Everything that was found; plain values.

    Attributes:
        system: names of the system and of Python.
        required: the packages without which nothing runs.
        optional: the others.
        torch: see `probe.torch_findings`, or an "error".
        package: see `probe.package_findings`, or an "error".
        memory: bytes in all, and those that are free; None where the system does not tell.
        tested: the versions that the test suite runs with, of the packages that matter most.
        problems: what is broken, and what to do.
        advice: what would be faster, or possible.
    """

    system: dict[str, str]
    required: list[Installed]
    optional: list[Installed]
    torch: dict[str, Any]
    package: dict[str, Any]
    memory: dict[str, int | None]
    tested: dict[str, tuple[str, ...]]
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def run(arguments: argparse.Namespace) -> int:
    """Prints the report; returns the exit status: 1 if something that is required is broken."""
    report = examine()
    if arguments.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(import_module(f"{__package__}.doctor_text").text_of(report))
    return int(bool(report.problems))


def examine() -> Report:
    """Looks at everything."""
    found = _probe()
    report = Report(
        system={
            "version": _version(PACKAGE) or "not installed: run from its sources",
            "python": platform.python_version(),
            "python_wanted": _python_wanted(),
            "system": platform.platform(),
            "machine": platform.machine(),
            "cores": str(os.cpu_count()),
        },
        required=[_look_up(requirement) for requirement in _requirements()],
        optional=[_look_up(_of_extras().get(name, name), use) for name, use in OPTIONAL.items()],
        torch=found["torch"],
        package=found["package"],
        memory=_memory(),
        tested=TESTED,
    )
    report.problems += _problems(report)
    report.advice += _advice(report)
    return report


def _probe() -> dict[str, dict[str, Any]]:
    """What the other process says; an "error" for each part about which it did not come to say anything."""
    command = [sys.executable, "-c", PROBE, json.dumps(sys.path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, encoding="utf-8", errors="replace"
        )
    except subprocess.TimeoutExpired:
        return {name: {"error": f"importing it took longer than {SECONDS} s"} for name in ("torch", "package")}
    found: dict[str, dict[str, Any]] = {}
    for line in done.stdout.splitlines():
        if line.startswith('{"found": '):
            content = json.loads(line)
            found[content.pop("found")] = content
    said = " ".join(done.stderr.strip().splitlines()[-1:])
    ended = {"error": f"importing it ended the process (exit status {done.returncode}) {said}".strip()}
    return {name: found.get(name, ended) for name in ("torch", "package")}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _python_wanted() -> str:
    try:
        return metadata.metadata(PACKAGE)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return ""


def _all_requirements() -> list[str]:
    """Those of the package's metadata, as `pyproject.toml` has them; none where it is not installed."""
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []


def _requirements() -> list[str]:
    return sorted(line for line in _all_requirements() if "extra ==" not in line)


def _of_extras() -> dict[str, str]:
    """The requirement of each package that an extra names; those for developers say the same or more."""
    lines = (line.partition(";")[0].strip() for line in _all_requirements() if "extra ==" in line)
    return {_name(line): line for line in lines}


def _name(requirement: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else " " for letter in requirement).split()[0]


def _look_up(requirement: str, use: str = "") -> Installed:
    """Whether a requirement is met, as pip would see it."""
    requirement = requirement.partition(";")[0].strip()
    name = _name(requirement)
    wanted, version = requirement.removeprefix(name).strip(), _version(name)
    return Installed(name, version, wanted, _fits(wanted, version), use)


def _fits(wanted: str, version: str | None) -> bool | None:
    """Whether a version is in a range; None where there is none, or nothing to compare it with."""
    if version is None:
        return None
    if not wanted:
        return True
    try:
        specifiers = import_module("packaging.specifiers")
    except ImportError:  # comes with transformers and others
        return None
    return bool(specifiers.SpecifierSet(wanted).contains(version, prereleases=True))


def _memory() -> dict[str, int | None]:
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        total: int | None = page * pages
    except (AttributeError, OSError, ValueError):  # Windows
        total = None
    try:
        _, _, rest = Path("/proc/meminfo").read_text(encoding="ascii").partition("MemAvailable:")
        free: int | None = int(rest.split()[0]) * 1024
    except (OSError, IndexError, ValueError):  # another system than Linux
        free = None
    return {"bytes": total, "available_bytes": free}


def _problems(report: Report) -> list[str]:
    """What is broken of what is required, and what to do."""
    problems = []
    if not report.required:
        problems.append(f"The metadata of {PACKAGE} is not found, so no version is checked. Install the package.")
    wanted = report.system["python_wanted"]
    if _fits(wanted, report.system["python"]) is False:
        problems.append(f"Found Python {report.system['python']}; expected {wanted}. Make an environment with that.")
    for each in report.required:
        line = f"pip install '{each.name}{each.wanted}'"
        if each.version is None:
            problems.append(f"{each.name} is not installed. {line}")
        elif each.fits is False:
            problems.append(f"Found {each.name} {each.version}; supported is {each.wanted}. {line}")
    for name, found in (("torch", report.torch), ("deepseek_vl_hf", report.package)):
        if "error" in found:
            problems.append(f"{name} cannot be imported: {one_line(found['error'])}")
    return problems


def _advice(report: Report) -> list[str]:
    """What would be faster or possible on this machine."""
    advice = []
    torch = report.torch
    has_gpu = bool(torch.get("gpus"))
    if not has_gpu and not torch.get("cuda") and "error" not in torch and shutil.which("nvidia-smi"):
        advice.append("This machine has NVIDIA's driver, but torch is built without CUDA. Install torch for CUDA.")
    if not has_gpu and torch.get("cuda") and not torch.get("rocm"):
        advice.append("torch is built for CUDA but sees no GPU, so the CPU is used.")
    if not has_gpu and report.package.get("cpu") == "float32":
        advice.append(
            "This processor has no instructions for bfloat16, so models run in float32; --fast packs their weights, "
            "which takes half of that memory."
        )
    cores = int(report.system["cores"]) if report.system["cores"].isdigit() else 0
    if not has_gpu and 0 < torch.get("threads", cores) * 2 < cores:
        advice.append(f"torch uses {torch['threads']} of {cores} logical cores. Look at OMP_NUM_THREADS.")
    if any(each.name == "torchao" and each.version is None for each in report.optional):
        advice.append("With torchao, --int4 loads a large model into about a third of the memory.")
    return advice
