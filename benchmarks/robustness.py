"""Tries the package with 10,000 odd and damaged inputs, for docs/robustness.md; tests/fuzz holds them.

    python benchmarks/robustness.py
    python benchmarks/robustness.py --cases 100000 --seed 1 --groups pictures links --no-result

Each group runs in a process of its own, two at a time: a case that ends its process is a bad one, too. The exit status
is 1 if a case is bad.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from environment import report
from robustness_tables import GROUPS

ROOT = Path(__file__).parent.parent
LONGEST = 4 * 3600  # seconds for a group, should even its watch over single cases fail


def try_group(group: str, cases: int, seed: int) -> dict[str, Any]:
    """Tries a group's share of the cases: numbers tried, right and refused, the bad ones, and seconds."""
    with tempfile.TemporaryDirectory() as temporary:
        counts, in_progress = Path(temporary) / "counts.json", Path(temporary) / "case.json"
        settings = {"FUZZ_CASES": cases, "FUZZ_SEED": seed, "FUZZ_REPORT": counts, "FUZZ_IN_PROGRESS": in_progress}
        # One thread each, because two groups share the machine.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in settings.items()}}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--show-capture=no",
            "tests/fuzz/test_robustness.py",
            "-k",
            group,
        ]
        start = time.perf_counter()
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST
        )
        figures: dict[str, Any] = {"tried": 0, "right": 0, "refused": 0, "bad": 0, "bad_cases": []}
        if counts.is_file():
            figures = json.loads(counts.read_text(encoding="utf-8"))
        elif in_progress.is_file():
            case = json.loads(in_progress.read_text(encoding="utf-8"))
            what = f"the process ended with {result.returncode}: {result.stderr[-500:]}"
            figures |= {"bad": 1, "bad_cases": [{"what": what, "times": 1, "case": case}]}
        else:
            raise RuntimeError(f"{group} did not begin: {(result.stdout + result.stderr)[-2000:]}")
        return {**figures, "seconds": round(time.perf_counter() - start, 1)}


def main() -> int:
    """Tries all groups; prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of all groups together (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other cases than the usual ones (default: %(default)s)")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS), help="(default: all)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda group: try_group(group, arguments.cases, arguments.seed), arguments.groups))
    figures = {
        "hypothesis": version("hypothesis"),
        "seed": arguments.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "groups": dict(zip(arguments.groups, found, strict=True)),
    }
    report("robustness", figures, stored=not arguments.no_result)
    bad = sum(group["bad"] for group in found)
    print(f"{sum(group['tried'] for group in found)} cases in {figures['seconds']} s, {bad} bad", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
