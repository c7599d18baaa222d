"""Draws the cases of a group and judges them."""

import faulthandler
import json
import os
from importlib import import_module
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
from transformers.utils import logging

from verdict import SECONDS, Recipe, Tally, judge

# Group: its share of 10,000 cases, and how many are tried when nothing is said.
GROUPS = {
    "checkpoints": (1500, 40),
    "json_files": (1500, 40),
    "pictures": (3000, 200),
    "conversations": (2000, 100),
    "rows": (1000, 60),
    "links": (400, 15),
    "command_lines": (600, 25),
}
# What a case does to the process that runs it shows in this file, if the process does not live to tell.
IN_PROGRESS = os.environ.get("FUZZ_IN_PROGRESS")


def often(*strategies: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
    """One of these, as often as it stands there; hypothesis' own `one_of` counts each once."""
    return st.sampled_from(range(len(strategies))).flatmap(lambda number: strategies[number])


def cases_of(group: str) -> int:
    """How many cases a group is tried with: its share of FUZZ_CASES, else the few of an ordinary run."""
    share, few = GROUPS[group]
    return round(int(os.environ["FUZZ_CASES"]) * share / 10_000) if "FUZZ_CASES" in os.environ else few


def run_case(group: str, recipe: Recipe) -> str:
    """The verdict of one case."""
    check = import_module(f"group_{group}").check
    if not IN_PROGRESS:
        return judge(check, recipe)
    Path(IN_PROGRESS).write_text(json.dumps({"group": group, **recipe}), encoding="utf-8")
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # for what hangs where Python's signals do not reach
    try:
        return judge(check, recipe)
    finally:
        faulthandler.cancel_dump_traceback_later()


def run_group(group: str) -> Tally:
    """Tries a group; the same cases each time, others with FUZZ_SEED."""
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # a warning is no refusal, and there are thousands
    tally = Tally(group)

    @hypothesis.seed(int(os.environ.get("FUZZ_SEED", "0")))
    @hypothesis.settings(
        max_examples=cases_of(group),
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(import_module(f"group_{group}").recipes())
    def one(recipe: Recipe) -> None:
        tally.add(recipe, run_case(group, recipe))

    try:
        one()
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    return tally
