"""Runs one case again, as a report names it: `python tests/fuzz/replay.py '{"group": "pictures", ...}'`."""

import argparse
import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from running import run_case  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", help="the case, as JSON")
    parser.add_argument("--traceback", action="store_true", help="let its error through")
    arguments = parser.parse_args()
    recipe = json.loads(arguments.case)
    group = recipe.pop("group")
    if arguments.traceback:
        try:
            import_module(f"group_{group}").check(recipe)
        except Exception:
            traceback.print_exc()
    print(run_case(group, recipe))
    return 0


if __name__ == "__main__":
    sys.exit(main())
