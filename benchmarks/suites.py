"""Runs tests in a process of their own and counts what came of them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
VERSIONS = """
import importlib.metadata, json, platform, sys
versions = {name: importlib.metadata.version(name) for name in sys.argv[1:]}
print(json.dumps({"python": platform.python_version(), **versions}))
"""


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Calls this interpreter's pip; the caller looks at the return code."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def paths(folders: Sequence[Path]) -> dict[str, str]:
    """The environment of a process that finds packages in these folders before its own."""
    known = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), *known])}


def versions(packages: Sequence[str], folders: Sequence[Path] = ()) -> dict[str, str]:
    """The versions of Python and of packages that a process with these folders sees."""
    command = [sys.executable, "-c", VERSIONS, *packages]
    result = subprocess.run(command, env=paths(folders), capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def run_tests(tests: Sequence[str], folders: Sequence[Path] = (), *, show: bool = False) -> dict[str, Any]:
    """Runs tests and counts them.

    Args:
        tests: files and folders, from the root of the repository.
        folders: where packages are looked for first.
        show: let pytest print.

    Returns:
        `passed`, `failed` (errors count as such), `skipped`, `seconds`, and `first_failure`, the name of a test or the
        last words of a pytest that came to no result.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junit-xml={report}", *tests]
        start = time.perf_counter()
        result = subprocess.run(
            command, cwd=ROOT, env=paths(folders), text=True, check=False, stdout=None if show else subprocess.PIPE
        )
        seconds = round(time.perf_counter() - start, 1)
        if not report.is_file():
            words = (result.stdout or "").strip().splitlines()[-1:] or [f"pytest ended with {result.returncode}"]
            return {"passed": 0, "failed": 1, "skipped": 0, "seconds": seconds, "first_failure": words[0]}
        return {**count(report), "seconds": seconds}


def count(report: Path) -> dict[str, Any]:
    """Counts the outcomes in a report in JUnit's format."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    first = f"{failed[0].get('classname') or ''}::{failed[0].get('name')}".removeprefix("::") if failed else None
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": len(failed),
        "skipped": len(skipped),
        "first_failure": first,
    }
