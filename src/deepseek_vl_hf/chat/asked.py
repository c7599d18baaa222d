"""What an earlier run of a command asked, beside what this one asks: a run goes on only with the same."""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

# What results say of it.
ASKED = ("model", "prompt", "settings")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """What differs, in words.

    Args:
        there: what was asked, by the names of `ASKED`; as it was read from a file.
        here: what is asked.
    """
    for name in ("model", "prompt"):
        if there[name] != here[name]:
            yield _difference(name, there[name], here[name])
    settings = there["settings"] if isinstance(there["settings"], dict) else {"settings": there["settings"]}
    for name in sorted({*settings, *here["settings"]}):
        one, other = settings.get(name), here["settings"].get(name)
        if one != other:
            yield _difference(name, one, other)


def _difference(name: str, there: Any, here: Any) -> str:
    """Two values that differ; of long texts what stands where they part."""
    if isinstance(there, str) and isinstance(here, str):
        pairs = enumerate(zip(there, here, strict=False))
        same = next((number for number, (one, other) in pairs if one != other), min(len(there), len(here)))
        start = max(same - 10, 0)
        place = f" (from character {start + 1} on)" if start else ""
        there, here = there[start:], here[start:]
    else:
        place = ""
    one, other = ("not given" if value is None else reprlib.repr(value) for value in (there, here))
    return f"{name}{place} {one} there, {other} here"
