"""Checks, before a release is built, that every file names the same version; `make release` runs it.

It also says what is left to do before anyone uploads what was built: a day in the changelog, a real address.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Where the version stands, and the pattern that finds it. The first is the one that the build reads.
PLACES = {
    "src/deepseek_vl_hf/version.py": r'^__version__ = "(.*)"$',
    "CHANGELOG.md": r"^## (\S+)",  # the topmost entry
    "CITATION.cff": r"^version: (\S+)$",
}
PLACEHOLDER = "https://example.org/"


def versions(root: Path) -> dict[str, str | None]:
    """The version that each of PLACES names first; None where none is found."""
    found = {}
    for name, pattern in PLACES.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        found[name] = match.group(1) if match else None
    return found


def complaints(found: dict[str, str | None]) -> list[str]:
    """What is out of step, one line for each file."""
    first, *others = PLACES
    version = found[first]
    if version is None:
        return [f'{first} has no line like __version__ = "1.2.3". Add one: the build takes the version from it.']
    lines = []
    for name in others:
        if found[name] is None:
            lines.append(
                f"{name} names no version, but {first} says {version}. Add it, in the form of earlier releases."
            )
        elif found[name] != version:
            lines.append(f"{name} says {found[name]}, but {first} says {version}. Give both the same version.")
    return lines


def reminders(root: Path) -> list[str]:
    """What keeps the version from being published as it is."""
    lines = []
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if "(unreleased)" in changelog.partition("\n## ")[2].partition("\n")[0]:
        lines.append('CHANGELOG.md still calls this version "(unreleased)". Put the day of the release there.')
    if PLACEHOLDER in (root / "pyproject.toml").read_text(encoding="utf-8"):
        lines.append(
            "The address in pyproject.toml, [project.urls], is a placeholder. Set the repository's own, then run "
            "`make docs-tables`, which writes it into the README."
        )
    return lines


def main() -> int:
    """Prints what was found; returns the exit status."""
    wrong = complaints(versions(ROOT))
    for line in wrong or reminders(ROOT):
        print(line, file=sys.stderr if wrong else sys.stdout)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
