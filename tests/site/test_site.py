"""The site, the notebook in a kernel, and answers as JSON: in the environment of `make test-docs`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def build(tmp_path):
    """Builds the site from docs/ with one page changed; exit status and complaints."""
    pytest.importorskip("sphinx", reason="make test-docs has it")

    def run(page, text):
        shutil.copytree(ROOT / "docs", tmp_path / "docs")
        for name in ("examples", "src", "benchmarks"):
            (tmp_path / name).symlink_to(ROOT / name)
        for path in [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), ROOT / "LICENSE"]:
            shutil.copy(path, tmp_path)
        with (tmp_path / "docs" / page).open("a", encoding="utf-8") as file:
            file.write(text)
        command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-n", "-q", "docs", "site"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return result.returncode, result.stderr

    return run


def test_what_leads_nowhere_fails_by_name(build):
    wrong = "\n[a](absent.md) [b](chat.md#absent) [c](../examples/absent.py)\n\n{py:class}`deepseek_vl_hf.Absent`\n"
    status, complaints = build("limits.md", wrong)
    assert status != 0
    for missing in ("absent.md", "in doc 'chat': 'absent'", "absent.py", "deepseek_vl_hf.Absent"):
        assert missing in complaints
    assert len(re.findall(r"limits\.md:\d+: WARNING", complaints)) == 4, complaints


def test_the_notebook_runs_in_a_kernel():
    nbclient = pytest.importorskip("nbclient", reason="make test-docs has it")
    pytest.importorskip("ipykernel", reason="make test-docs has it")
    nbformat = pytest.importorskip("nbformat", reason="make test-docs has it")

    notebook = nbformat.read(ROOT / "examples" / "first_steps.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    nbformat.validate(notebook)
    assert notebook.cells[-1].outputs[-1]["data"]["text/plain"] == "'left'"


def test_answers_as_json():
    pytest.importorskip("xgrammar", reason="make test-docs has it")
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    pairs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    ((program, output),) = [pair for pair in pairs if "xgrammar" in pair[0]]
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout == output, result.stderr
