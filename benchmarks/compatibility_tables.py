"""The table of docs/compatibility.md, from benchmarks/results/compatibility.json."""

from typing import Any

from int4_tables import results, table

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
HEAD = ["transformers", "Python", "torch", "Pillow", "tests", "passed", "failed", "skipped", "time"]


def row(run: dict[str, Any]) -> list[str]:
    """One run; of a release that this Python cannot have, only that."""
    facts = [run["transformers"], run["python"], run["torch"], run["pillow"], ", ".join(f"`{x}`" for x in run["tests"])]
    if run["passed"] is None:
        return [*facts, "cannot be installed", "", "", ""]
    return [*facts, *(str(run[name]) for name in ("passed", "failed", "skipped")), f"{run['seconds']:.0f} s"]


def not_run(runs: list[dict[str, Any]]) -> str:
    """What the package admits and no run had."""
    had = {run["python"].rpartition(".")[0] for run in runs}
    torches = ", ".join(sorted({run["torch"].rpartition(".")[0] for run in runs}))
    missing = ", ".join(python for python in PYTHONS if python not in had)
    others = [f"torch other than {torches}", "Windows and macOS"]
    return "Not run: " + "; ".join([*([f"Python {missing}"] if missing else []), *others]) + "."


def runs_table() -> str:
    """What was run, and what was not."""
    figures = results("compatibility.json")
    machine = figures["environment"]
    commits = ", ".join(sorted({run["commit"] or "unknown" for run in figures["runs"]}))
    notes = f"Linux, {machine['processor']}, {machine['cores']} cores; commit {commits}. {not_run(figures['runs'])}"
    return f"{table(HEAD, [row(run) for run in figures['runs']])}\n\n{notes}"
