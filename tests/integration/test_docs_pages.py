"""What the site's pages say is run: programs print what stands under them, error texts are the code's."""

import ast
import io
import itertools
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import deepseek_vl_hf
from deepseek_vl_command.arguments import parse
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


def command_lines(text):
    """The lines of a page's shell blocks, with continued lines joined and remarks left out."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def run_line(line, folder, capsys):
    """Runs a line with `*` and `>` as a shell would, files written to `folder`; what it prints or writes."""
    line, _, file = line.partition(" > ")
    words = [sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in shlex.split(line)]
    assert main(list(itertools.chain.from_iterable(words))[1:]) == 0
    printed = capsys.readouterr().out
    if file:
        (folder / file).write_text(printed, encoding="utf-8")
    return printed


def test_the_commands_of_quick_start_and_recipes_run(monkeypatch, capsys, tmp_path):
    """All but those that install; each prints what stands under it, if anything does."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    lines = {name: command_lines(page(name)) for name in ("quickstart", "recipes")}
    run = {name: [line for line in found if not line.startswith("pip install ")] for name, found in lines.items()}
    assert {name: [line.split()[:2] for line in found] for name, found in run.items()} == {
        name: [["deepseek-vl", "describe"]] for name in lines
    }
    output = run_line(run["quickstart"][0], tmp_path, capsys)
    assert f"{run['quickstart'][0]}\n```\n\n```text\n{output}```" in page("quickstart")
    run_line(run["recipes"][0], tmp_path, capsys)
    captions = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [Path(caption["pictures"][0]).stem for caption in captions] == ["chart", "shapes", "words"]
    assert all(caption["answer"] for caption in captions)


def test_every_command_of_the_pages_is_one_that_the_parser_reads():
    """Also those that need several GPUs, a network or a real model."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    lines = [line for path in pages for line in command_lines(path.read_text(encoding="utf-8"))]
    found = [re.split(r"^deepseek-vl |-m deepseek_vl_hf ", line)[1:] for line in lines]
    commands = [shlex.split(after[0].partition(" > ")[0]) for after in found if after]
    assert len(commands) >= 25
    for words in commands:
        parsed = parse(words)
        assert parsed.command == words[0]


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
        assert parse(shlex.split(line)[1:]).command == shlex.split(line)[1]


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
