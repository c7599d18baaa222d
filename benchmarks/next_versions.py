"""Installs the newest of everything but torch, without regard to the package's caps, and tells in one line what breaks.

It changes the environment that it runs in, which `make test-newest` makes for it, with torch and the package alone.
"""

import argparse
import re
import sys
import tempfile
from importlib.metadata import requires
from pathlib import Path

from suites import install, run_tests, versions

TOLD = ("transformers", "huggingface_hub", "tokenizers", "accelerate", "peft", "pillow", "numpy", "torch")
WHOLE = ("tests/unit", "tests/parity")
QUICK = (
    "tests/parity",
    "tests/unit/test_auto.py",
    "tests/unit/test_boundary.py",
    "tests/unit/test_cache_names.py",
    "tests/unit/test_chat_template.py",
    "tests/unit/test_config.py",
    "tests/unit/test_loading.py",
    "tests/unit/test_model.py",
    "tests/unit/test_processor.py",
)


def names() -> list[str]:
    """The packages that this one and its development tools require, without torch and without versions."""
    wanted = [
        line for line in requires("deepseek-vl-hf") or () if "extra ==" not in line or re.search(r"['\"]dev", line)
    ]
    found = [re.match(r"[\w.-]+", line) for line in wanted]
    return sorted({match.group() for match in found if match} - {"torch"})


def install_newest() -> str:
    """Installs them; returns what pip said if it could not."""
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "torch.txt"
        held.write_text(f"torch=={versions(['torch'])['torch']}\n", encoding="utf-8")
        result = install("--upgrade", "--constraint", str(held), *names())
    return "" if result.returncode == 0 else (result.stderr.strip().splitlines() or ["pip failed"])[-1]


def main() -> int:
    """Installs, tests and tells; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="run a part of the tests, and let only the one line be seen"
    )
    arguments = parser.parse_args()
    refused = install_newest()
    if refused:
        print(f"what breaks next: unknown, the newest versions could not be installed: {refused}")
        return 1
    outcome = run_tests(QUICK if arguments.quick else WHOLE, show=not arguments.quick)
    told = ", ".join(f"{name} {version}" for name, version in versions(TOLD).items())
    if outcome["failed"]:
        print(f"what breaks next ({told}): {outcome['failed']} tests, first {outcome['first_failure']}")
    else:
        print(f"what breaks next ({told}): nothing in {outcome['passed']} tests")
    return 1 if outcome["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
