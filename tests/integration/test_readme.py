"""What the README says is run, and its tables are those of their files."""

import ast
import io
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import demo
from deepseek_vl_hf import nano_path
from deepseek_vl_hf.cli import main
from deepseek_vl_hf.hf.versions import CHUNKED_PREFILL_READS_IMAGES
from forked import python
from overlaps import same_places

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def blocks_of_commands(text):
    return re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


COMMANDS = blocks_of_commands(README)


def test_there_are_snippets():
    assert len(SNIPPETS) >= 2


def run_program(program):
    """What a program prints."""
    result = python("-c", program, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_first_answer_is_the_one_under_the_picture():
    """In an interpreter that has imported nothing before."""
    assert '"nano"' in SNIPPETS[0]
    command = [sys.executable, "-c", SNIPPETS[0]]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"**{result.stdout.strip()}** |" in README


def test_the_readme_is_short():
    assert len(README.split()) < 1200


@pytest.mark.parametrize("layout", ["original", "converted"])
def test_python_snippets_run(original, converted, layout, tmp_path):
    """Each with names of its own, in one program; each prints something."""
    program = ""
    for number, snippet in enumerate(SNIPPETS[1:]):
        assert "path/to/model" in snippet
        assert "deepseek_vl_hf" in snippet
        program += f"exec({snippet!r}, {{}})\nprint('end of {number}')\n"
    program = program.replace("path/to/model", str({"original": original, "converted": converted}[layout]))
    printed = run_program(program.replace("out-int4", str(tmp_path / "int4")))
    for number in range(len(SNIPPETS) - 1):
        before, found, printed = f"\n{printed}".partition(f"\nend of {number}")
        assert found
        assert before.strip()


def test_snippets_of_the_page_on_generation_run(converted):
    """They build on one another, so they run as one program; chunked prefill only where transformers has it."""
    page = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(snippets) >= 6
    if not CHUNKED_PREFILL_READS_IMAGES:
        snippets = [snippet for snippet in snippets if "prefill_chunk_size" not in snippet]
    program = "\n".join(snippets).replace("path/to/model", str(converted))
    # Without code generation: tests/integration/test_compile.py does that.
    program = program.replace("dynamic=True)", 'dynamic=True, backend="eager")')
    run_program(program)


def test_the_snippet_for_the_originals_packages_runs():
    page = (ROOT / "docs" / "original.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert run_program(snippet.replace("path/to/model", str(nano_path()))) == "red"


@pytest.fixture
def run_command(capsys, monkeypatch):
    """Runs a documented `deepseek-vl ...` line, with real folders in place of the named ones; what it prints."""

    def run(line, places):
        words = shlex.split(line)
        assert words[0] == "deepseek-vl"
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        status = main([places.get(word, word) for word in words[1:]])
        found = capsys.readouterr()
        assert status == 0, found.err
        return found.out

    return run


def commands_of(text):
    return [
        line for block in blocks_of_commands(text) for line in block.splitlines() if line.startswith("deepseek-vl ")
    ]


def test_commands_run(original, ocr, tmp_path, run_command):
    places = {f"path/to/{name}": str(tmp_path / name) for name in ("model", "int4")}
    places["photo.jpg"] = str(ROOT / "examples" / "pictures" / "words.png")
    lines = [line.partition("  #")[0].strip() for line in commands_of(README)]
    chat, demo, describe, read, serve, train, convert, quantize = lines
    assert demo == "deepseek-vl demo path/to/model"  # tests/page runs it
    assert serve == "deepseek-vl serve path/to/model"  # tests/integration/test_serving.py runs such
    assert train in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")  # whose test runs it
    run_command(convert, {**places, "path/to/original": str(original)})
    assert (tmp_path / "model" / "config.json").is_file()
    assert run_command(chat, places) == ""  # nobody asks anything
    assert run_command(describe, places).strip()
    Image.new("RGB", (60, 80), "white").save(tmp_path / "report.pdf")
    of_ocr = {"path/to/model": str(ocr.converted), "report.pdf": str(tmp_path / "report.pdf")}
    run_command(f"{read} --max-new-tokens 8", {**of_ocr, "out": str(tmp_path / "out")})
    assert (tmp_path / "out" / "report" / "report.md").is_file()
    run_command(quantize, places)
    assert (tmp_path / "int4" / "config.json").is_file()


def test_the_page_on_documents_runs(ocr, tmp_path):
    page = (ROOT / "docs" / "ocr.md").read_text(encoding="utf-8")
    Image.new("RGB", (60, 80), "white").save(tmp_path / "scan.png")
    places = {"path/to/deepseek-ocr": str(ocr.converted), "scan.png": str(tmp_path / "scan.png"), "=1000": "=4"}
    *models, layout = re.findall(r"```python\n(.*?)```\n", page, re.DOTALL)
    for snippet in models:
        for name, place in places.items():
            snippet = snippet.replace(name, place)
        assert run_program(snippet)
    (shown,) = re.findall(r"```text\n(!.*?)```", page, re.DOTALL)
    assert run_program(layout) == shown.strip()


def test_the_page_on_quantization_runs(original, tmp_path, run_command):
    """Its snippets build on one another."""
    page = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    (command,) = commands_of(page)
    run_command(command, {"path/to/model": str(original), "path/to/int4": str(tmp_path / "int4")})
    first, training = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    places = {"path/to/model": str(original), "out-int4": str(tmp_path / "saved")}
    for snippet, said in ((first, "layers quantized to"), (training, "trainable params")):
        for name, place in places.items():
            snippet = snippet.replace(name, place)
        assert said in run_program(snippet)


def test_the_page_on_conversations_runs(tmp_path, run_command):
    page = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
    chat, one, several, many, resumed, doctor, demo = commands_of(page)
    assert "Problems: none" in run_command(doctor, {})
    assert demo == "deepseek-vl demo"  # tests/page runs it
    assert run_command(chat, {}) == ""
    assert run_command(one, {}) == "OPEN\n"
    assert len(run_command(several, {}).splitlines()) == 2
    places = {"answers.jsonl": str(tmp_path / "answers.jsonl")}
    for command in (many, resumed):
        assert run_command(command, places) == ""
        lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 3
        assert lines[1] in page
    program = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))  # they build on one another
    printed = run_program(program.replace('"talk.zip"', repr(str(tmp_path / "talk.zip")))).splitlines()
    assert [printed[0], printed[1], printed[-1]] == ["4", "green", "green"]
    assert (tmp_path / "talk.zip").is_file()


def test_the_page_on_checkpoints_runs(original, tmp_path, run_command):
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    convert, verify = commands_of(page)
    run_command(convert, {"path/to/original": str(original), "path/to/model": str(tmp_path / "model")})
    report = tmp_path / "report.json"
    run_command(verify, {"deepseek-ai/deepseek-vl-7b-chat": str(original), "report.json": str(report)})
    assert json.loads(report.read_text())["passed"]
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = snippet.replace("path/to/original", str(original)).replace("path/to/model", str(tmp_path / "again"))
    run_program(program)
    assert (tmp_path / "again" / "README.md").is_file()


def test_the_page_on_deepseek_vl2_runs(vl2, tmp_path):
    page = (ROOT / "docs" / "deepseek-vl2.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = "\n".join(snippets).replace("path/to/deepseek-vl2-tiny", str(vl2.original))
    program = program.replace("boxes.png", str(tmp_path / "boxes.png"))
    found = re.search(r"\['all shapes'\] \[\[(\(.*\))\]\]$", run_program(program))
    assert same_places(demo.FINDS["all shapes"], ast.literal_eval(f"[{found[1]}]"))
    assert (tmp_path / "boxes.png").is_file()


def test_the_page_on_speed_runs(converted):
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = snippet.replace("path/to/model", str(converted))
    assert "PrepackedLinear(in_features=" in run_program(f"{program}\nprint(model)")


def test_the_chart_shows_the_measured_ratios():
    rows = json.loads((ROOT / "benchmarks" / "results" / "speed.json").read_text(encoding="utf-8"))["rows"]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (ROOT / "docs" / "speed.svg").read_text(encoding="utf-8"))
    assert [text for text in texts if text in {f"{row['stage']} ({row['dtype']})" for row in rows}] == [
        f"{row['stage']} ({row['dtype']})" for row in rows
    ]
    ratios = [text for text in texts if re.fullmatch(r"\d\.\d\d", text)]  # the axis has one digit
    assert ratios == [f"{row['ratio']:.2f}" for row in rows]


def test_the_page_on_training_runs(vl2, tmp_path, run_command):
    """Of DeepSeek-VL2, whose rows may have boxes."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    snippet, adapters, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert float(run_program(snippet.replace("build/flags", str(tmp_path / "flags"))).split()[-1]) > 0
    assert "trainable params" in run_program(adapters.replace("path/to/model", str(vl2.converted)))
    rows = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    places = {"data.jsonl": tmp_path / "rows.jsonl", "path/to/model": vl2.converted}
    places = {name: str(path) for name, path in {**places, "out": tmp_path / "out", "merged": tmp_path / "in"}.items()}
    (tmp_path / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    for name in ("cat.jpg", "room.jpg"):
        shutil.copy(ROOT / "examples" / "pictures" / "shapes.png", tmp_path / name)
    train, merge, chat = commands_of(page)
    assert f"Wrote {tmp_path / 'out'}" in run_command(train, places)
    assert "Wrote" in run_command(merge, places)
    assert run_command(chat, places) == ""
    assert (tmp_path / "in" / "config.json").is_file()


def test_the_snippet_for_trl_runs(tmp_path):
    pytest.importorskip("trl", reason="TRL is not in the locked environments")
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    snippet = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-1]
    loss = run_program(snippet.replace("build/colors", str(tmp_path / "colors"))).split()[-1]
    assert math.isfinite(float(loss))


def test_the_file_for_ms_swift_is_there():
    """tests/ms_swift runs it."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (file,) = re.findall(r"--custom_register_path (\S+)", page)
    assert (ROOT / file).is_file()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {line.split()[1] for block in COMMANDS for line in block.splitlines() if line.startswith("make ")}
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_tables_are_up_to_date():
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "readme_tables.py"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / target).exists(), target
