"""What torch and the package say of this machine, for `deepseek-vl doctor`; run in a process of its own.

An import may end the whole process (a build for another processor), so each finding is written out as soon as it is
known: one JSON object on a line, `{"found": name, ...}`.
"""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

# Of what torch knows of a processor: what decides how fast its kernels are.
ABILITIES = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "sve", "bf16")


def main() -> None:
    """Writes the findings."""
    for name, ask in (("torch", torch_findings), ("package", package_findings)):
        print(json.dumps({"found": name, **_guarded(ask)}), flush=True)


def torch_findings() -> dict[str, Any]:
    """What torch is built for, and what it sees."""
    torch = import_module("torch")
    # Newer releases list all abilities; older ones name the kernels that they take.
    listed = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "abilities": [name for name in ABILITIES if listed.get(name)] if listed else None,
        "processor": listed.get("cpu_name"),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "mps": torch.backends.mps.is_available(),
        "gpus": [{"name": gpu.name, "bytes": gpu.total_memory} for gpu in gpus],
    }


def package_findings() -> dict[str, Any]:
    """Which type of numbers the package would take; that it can be imported is a finding, too."""
    package = import_module("deepseek_vl_hf")
    kinds = {"cpu": "cpu", "default": None}
    return {name: str(package.fast_dtype(device)).removeprefix("torch.") for name, device in kinds.items()}


def _guarded(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except Exception as error:  # whatever a broken installation comes up with is what a person has to read
        return {"error": f"{type(error).__name__}: {error}"}
