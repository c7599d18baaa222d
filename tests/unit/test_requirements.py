"""The locks in requirements/ are complete, portable, and agree with pyproject.toml and the documentation."""

import re
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from deepseek_vl_command.doctor import TESTED

ROOT = Path(__file__).parents[2]
LOCKS = {"newest": ("dev",), "oldest": ("dev",), "page": ("dev", "demo", "page"), "docs": ("dev", "docs")}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# requirements/oldest.in says why.
NEWER_THAN_OLDEST = {"accelerate", "pillow"}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def lists(name):
    """A list of requirements in pyproject.toml; Python 3.10 has no reader of TOML."""
    pattern = rf"^{name} = \[([^\n]+)\]|^{name} = \[\n(.*?)^\]"
    found = re.search(pattern, read("pyproject.toml"), re.MULTILINE | re.DOTALL)
    lines = (found.group(1) or found.group(2)).splitlines()
    return [Requirement(text) for line in lines for text in re.findall(r'"([^"]+)"', line.partition(" #")[0])]


def requirements(name):
    lines = [line.partition(" #")[0].strip() for line in read(f"requirements/{name}").splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def on(python, found):
    """What an environment installs, by name, on Linux with a version of Python."""
    environment = {**default_environment(), "sys_platform": "linux", "os_name": "posix"}
    environment |= {"python_version": python, "python_full_version": f"{python}.9"}
    wanted = [each for each in found if each.marker is None or each.marker.evaluate(environment)]
    names = [canonicalize_name(each.name) for each in wanted]
    assert len(set(names)) == len(names)
    return dict(zip(names, wanted, strict=True))


def pinned(requirement):
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


def floor(requirement):
    return next(Version(each.version) for each in requirement.specifier if each.operator == ">=")


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_direct_dependencies_are_pinned_within_their_ranges(lock, python):
    locked = on(python, requirements(f"{lock}.txt"))
    for wanted in [*lists("dependencies"), *(each for extra in LOCKS[lock] for each in lists(extra))]:
        if wanted.name != "torch":
            assert wanted.specifier.contains(pinned(locked[canonicalize_name(wanted.name)]), prereleases=True), wanted


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_nothing_of_the_machine_that_made_them(lock):
    text = read(f"requirements/{lock}.txt")
    assert not re.search(r"://|@|--|/|\\", text)
    assert not re.search(r"^(torch|triton|cuda-|nvidia-)", re.sub(r"^torchao.*$", "", text, flags=re.MULTILINE), re.M)


def test_torch_is_pinned_by_its_version_alone():
    (torch,) = requirements("torch.txt")
    assert torch.name == "torch"
    assert pinned(torch).local is None
    assert next(each for each in lists("dependencies") if each.name == "torch").specifier.contains(pinned(torch))


def test_what_is_known_of_transformers_is_what_the_metadata_admits():
    transformers = next(each for each in lists("dependencies") if each.name == "transformers")
    cap = next(Version(each.version) for each in transformers.specifier if each.operator == "<")
    page = read("docs/compatibility.md")
    assert f"transformers from {floor(transformers)} on and before {cap}:" in page
    newest = pinned(on("3.11", requirements("newest.txt"))["transformers"])
    assert newest.release[:2] == (cap.major, cap.minor - 1)
    oldest = pinned(on("3.11", requirements("oldest.txt"))["transformers"])
    assert oldest.release[:2] == floor(transformers).release[:2]


def test_the_doctor_names_the_versions_of_the_locks():
    pins = [on("3.11", requirements(f"{name}.txt"))["transformers"] for name in ("oldest", "newest")]
    (torch,) = requirements("torch.txt")
    found = {"transformers": tuple(str(pinned(pin)) for pin in pins), "torch": (str(pinned(torch)),)}
    assert found == TESTED


def test_the_oldest_lock_begins_where_the_ranges_do():
    locked = on("3.10", requirements("oldest.txt"))
    for wanted in lists("dependencies"):
        name = canonicalize_name(wanted.name)
        if name not in NEWER_THAN_OLDEST | {"torch"}:
            assert pinned(locked[name]).release[:2] == floor(wanted).release[:2], name


def test_each_environment_of_the_makefile_has_its_lock():
    used = re.findall(r"call make-environment,\$\(\w+\),(\w+)\)", read("Makefile"))
    assert sorted(used) == sorted([*LOCKS, "eval"])  # whose file pins a few packages, and says so
