"""Figures of processes of their own, one per implementation: of DeepSeek-VL-Hybrid loading time and memory."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from port import OURS, PORT

# Anonymous memory is the process's own; pages of the mapped files belong to the system, which can drop them.
PROGRAM = """
import json, sys, threading, time
from pathlib import Path
import torch
implementation, folder = sys.argv[1:]
if implementation == "transformers":
    from transformers.models.deepseek_vl_hybrid.modeling_deepseek_vl_hybrid import (
        DeepseekVLHybridForConditionalGeneration as Model,
    )
else:
    from deepseek_vl_hf import DeepseekVLHybridForConditionalGeneration as Model

def own_bytes():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024

start = time.perf_counter()
model = Model.from_pretrained(folder, dtype=torch.bfloat16).eval()
figures = {"load_seconds": time.perf_counter() - start}
low, high = (torch.randn(1, 3, side, side, dtype=torch.bfloat16) for side in (384, 1024))
before = own_bytes()
peak, done = [before], threading.Event()

def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], own_bytes())

watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
with torch.no_grad():
    for _ in range(2):
        model.model.get_image_features(low, high, return_dict=True)
done.set()
watcher.join()
figures["encoding_bytes"] = peak[0] - before
print(json.dumps(figures))
"""


def measure(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Medians per implementation: seconds to load a checkpoint, most bytes beyond the loaded model in two encodings.

    Args:
        folder: a checkpoint in the transformers layout, which both read.
        repeats: processes per implementation, started in turn.
    """
    return in_turn(lambda implementation: ["-c", PROGRAM, implementation, str(folder)], repeats)


def in_turn(arguments: Callable[[str], list[str]], repeats: int) -> dict[str, dict[str, float]]:
    """Medians, by figure and implementation, of what Python processes print as JSON in their last line.

    Args:
        arguments: of Python, for the name of an implementation.
        repeats: processes per implementation, started in turn.
    """
    found: dict[str, list[dict[str, Any]]] = {OURS: [], PORT: []}
    for _ in range(repeats):
        for implementation, runs in found.items():
            runs.append(last_line_of(arguments(implementation)))
    return {
        name: {implementation: statistics.median(run[name] for run in runs) for implementation, runs in found.items()}
        for name in found[OURS][0]
    }


def last_line_of(arguments: list[str]) -> dict[str, Any]:
    """What a Python process prints as JSON in its last line.

    Args:
        arguments: of Python.
    """
    result = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found
