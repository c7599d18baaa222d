"""What `make release` checks before it builds, and the address that pyproject.toml and the README share."""

import importlib.util
import re
from pathlib import Path

import pytest

from deepseek_vl_hf import __version__

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("release_check", ROOT / "release" / "check.py")
check = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check)
FILES = {
    "src/deepseek_vl_hf/version.py": '"""The version."""\n\n__version__ = "1.2.0"\n',
    "CHANGELOG.md": "# Changelog\n\n## 1.2.0 (2027-01-31)\n\n* News.\n\n## 1.1.0 (unreleased)\n",
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.0\n",
    "pyproject.toml": '[project.urls]\nRepository = "https://git.test/a"\n',
}


@pytest.fixture
def written(tmp_path):
    """A project with some files changed: the versions that it names, and what is left to do."""

    def write(**changed):
        for name, text in {**FILES, **changed}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return check.complaints(check.versions(tmp_path)), check.reminders(tmp_path)

    return write


def test_this_version_is_in_step():
    found = check.versions(ROOT)
    assert set(found.values()) == {__version__}
    assert check.complaints(found) == []


def test_versions_out_of_step_are_named(written):
    assert written() == ([], [])
    changelog = FILES["CHANGELOG.md"]
    ((line,), _) = written(**{"CHANGELOG.md": changelog.replace("1.2.0", "1.3.0")})
    assert line.startswith("CHANGELOG.md says 1.3.0, but src/deepseek_vl_hf/version.py says 1.2.0. Give both")
    assert "says Unreleased" in written(**{"CHANGELOG.md": changelog.replace("1.2.0 (2027-01-31)", "Unreleased")})[0][0]
    assert "CITATION.cff names no version" in written(**{"CITATION.cff": "title: a\n"})[0][0]
    assert "has no line like" in written(**{"src/deepseek_vl_hf/version.py": "version = 1\n"})[0][0]


def test_what_is_left_to_do_is_said(written):
    wrong, left = written(
        **{
            "CHANGELOG.md": FILES["CHANGELOG.md"].replace("2027-01-31", "unreleased"),
            "pyproject.toml": 'Repository = "https://example.org/a"\n',
        }
    )
    assert wrong == []
    assert len(left) == 2


def test_the_readme_clones_from_the_address_of_the_metadata():
    (address,) = re.findall(
        r'^Repository = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert f"git clone {address} " in (ROOT / "README.md").read_text(encoding="utf-8")
