"""What the site's pages say is run: programs print what stands under them, error texts are the code's."""

import ast
import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import deepseek_vl_hf
from deepseek_vl_hf import nano_path
from deepseek_vl_hf.cli import main
from forked import python

ROOT = Path(__file__).parents[2]
WITH_OUTPUT = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def run_programs(programs):
    """What each of several programs prints; they run in one process, each with names of its own."""
    whole = "".join(f"exec({program!r}, {{}})\nprint('end of program')\n" for program in programs)
    result = python("-c", whole, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return [f"{printed}\n".lstrip("\n") for printed in result.stdout.split("\nend of program\n")[:-1]]


@pytest.mark.parametrize(("name", "number"), [("quickstart", 2), ("recipes", 5)])
def test_programs_print_what_stands_under_them(name, number):
    """What needs xgrammar is run by tests/site."""
    text = page(name)
    found = [pair for pair in WITH_OUTPUT.findall(text) if "xgrammar" not in pair[0]]
    assert len(found) == number
    assert len(WITH_OUTPUT.findall(text)) == len(re.findall(r"```python\n", text))
    assert run_programs([program for program, _ in found]) == [output for _, output in found]


def test_commands_print_what_stands_under_them(monkeypatch, capsys):
    ((command, output),) = re.findall(
        r"```bash\n(deepseek-vl .*?)\n```\n\n```text\n(.*?)```", page("quickstart"), re.DOTALL
    )
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out == output


def test_the_new_lines_of_those_who_come_from_elsewhere_run(converted):
    blocks = re.findall(r"```diff\n(.*?)```", page("coming-from"), re.DOTALL)
    new = ["".join(line[1:] + "\n" for line in block.splitlines() if line[0] in "+ ") for block in blocks]
    programs = [text for text in new if "import " in text]
    assert len(programs) == 4
    prepared = [text.replace("path/to/model", str(nano_path())) for text in programs]
    assert run_programs([f"{text}\nprint('ran')" for text in prepared]) == ["ran\n"] * 4
    commands = [line for text in new for line in text.splitlines() if line.startswith("deepseek-vl ")]
    assert [shlex.split(line)[1] for line in commands] == ["convert", "describe", "chat"]
    for line in commands:
        with pytest.raises(SystemExit) as left:
            main([*shlex.split(line)[1:], "--help"])
        assert left.value.code == 0


def test_error_texts_are_those_of_the_code():
    """`…` on the page stands for what an f-string puts in."""
    sources = "\n".join(written(path) for path in (ROOT / "src").rglob("*.py"))
    head = page("troubleshooting").partition("## Errors of other libraries")[0]
    rows = [line for line in head.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 20
    for row in rows:
        pieces = [piece for piece in re.findall(r"`([^`]+)`", row.split(" | ")[0])[-1].split("…") if len(piece) > 1]
        assert re.search("[^\n]*?".join(map(re.escape, pieces)), sources), row


def written(path):
    """The texts of a file, one a line, with `…` for what is put in."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
    return "\n".join(text.replace("\n", " ") for text in texts)


def test_the_reference_has_all_public_names():
    listed = re.findall(r"auto(?:class|function):: deepseek_vl_hf\.(\w+)$", page("api"), re.MULTILINE)
    assert sorted([*listed, "__version__"]) == sorted(deepseek_vl_hf.__all__)


def test_every_page_is_in_the_contents():
    contents = re.findall(r"^[a-z0-9-]+$", page("index"), re.MULTILINE)
    assert sorted(contents) == sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "index")


def test_the_notebook_gives_right_answers():
    """Its cells as one program; tests/site runs it as a notebook."""
    notebook = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    program = "\n".join("".join(cell["source"]) for cell in cells)
    (printed,) = run_programs([f"{program}\nprint(answers)"])
    assert printed.splitlines()[-1] == "['2', 'red', 'left']"
