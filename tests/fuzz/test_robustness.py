"""A few cases of every group in each run; `make fuzz` tries 10,000. docs/robustness.md says what is right."""

import json
import os
from pathlib import Path

import pytest

from running import GROUPS, cases_of, run_group

pytestmark = pytest.mark.uses_old_names  # what a damaged file asks of transformers is not this package's doing


@pytest.mark.parametrize("group", GROUPS)
def test_no_case_is_bad(group):
    tally = run_group(group)
    if "FUZZ_REPORT" in os.environ:
        Path(os.environ["FUZZ_REPORT"]).write_text(json.dumps(tally.as_dict()), encoding="utf-8")
    assert tally.tried == cases_of(group)
    assert tally.right > 0
    assert tally.refused > 0
    shown = "\n".join(f"{kind['times']}: {kind['what']!a}\n  {json.dumps(kind['case'])}" for kind in tally.bad_kinds())
    assert not tally.bad, f"{len(tally.bad)} of {tally.tried} cases are bad:\n{shown}"
