"""Converts a 7B checkpoint of random weights, and compares time and memory with copying the same files.

    python benchmarks/conversion.py --folder /path/with/45/GB

The checkpoint has the published names, shapes and type (float16). Conversion and `cp` take turns, each after the source
was read once, so that it is in the cache as far as memory allows. Everything is removed at the end.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import report
from random_checkpoint import write_checkpoint

# The command in a process of its own, which tells its peak memory at the end.
CONVERT = """
import sys
from pathlib import Path
from deepseek_vl_hf.cli import main
status = main(["convert", *sys.argv[1:], "--quiet"])
# Not ru_maxrss: that also counts the parent's memory at the time of the fork.
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024)
sys.exit(status)
"""


def timed(command: list[str], source: Path, target: Path) -> tuple[float, str]:
    """Seconds and output of a command that writes `target`, which is removed afterwards."""
    os.sync()
    for path in sorted(source.iterdir()):
        with path.open("rb") as file:
            while file.read(2**24):
                pass
    start = time.perf_counter()
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds, result.stdout


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Alternates the two and gives the figures."""
    source, target = folder / "source", folder / "target"
    num_bytes = write_checkpoint(source, "deepseek-vl-7b")
    copies, conversions, peaks = [], [], []
    for number in range(rounds):
        seconds, _ = timed(["cp", "-r", "--reflink=never", str(source), str(target)], source, target)
        copies.append(seconds)
        seconds, output = timed([sys.executable, "-c", CONVERT, str(source), str(target)], source, target)
        conversions.append(seconds)
        peaks.append(int(output.split()[-1]))
        print(f"round {number + 1}: cp {copies[-1]:.1f} s, conversion {conversions[-1]:.1f} s", flush=True)
    copy, conversion = statistics.median(copies), statistics.median(conversions)
    return {
        "model_type": "deepseek_vl_hybrid",
        "checkpoint_bytes": num_bytes,
        "rounds": rounds,
        "cp_seconds": [round(seconds, 2) for seconds in copies],
        "conversion_seconds": [round(seconds, 2) for seconds in conversions],
        "cp_median_seconds": round(copy, 2),
        "conversion_median_seconds": round(conversion, 2),
        "conversion_to_cp": round(conversion / copy, 3),
        "peak_memory_bytes": max(peaks),
    }


def main() -> int:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes (default: the system's)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        figures = measure(Path(temporary), arguments.rounds)
    report("conversion", figures, stored=not arguments.no_result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
