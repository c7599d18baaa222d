"""`deepseek-vl ocr`: whole runs of the small model, and its answers replaced by those of a real one's kind."""

import dataclasses
import errno
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from deepseek_vl_command import ocr as words
from deepseek_vl_command.arguments import parse
from deepseek_vl_hf import Chat
from deepseek_vl_hf.chat.batch import ask_each
from deepseek_vl_hf.cli import main
from deepseek_vl_hf.cli import ocr as command
from deepseek_vl_hf.models.deepseek_ocr.views import DEFAULT_MODE, MODES
from deepseek_vl_hf.ocr import PROMPTS, output, reading
from deepseek_vl_hf.ocr.pages import Document, Page
from deepseek_vl_hf.ocr.repetition import OF_PDFS, OF_PICTURES
from family import FIXTURES, IMAGES

pytest.importorskip("pypdfium2")

PICTURES, SQUARE = FIXTURES / "deepseek_ocr" / "images", IMAGES / "square.png"

PAGE = """<|ref|>title<|/ref|><|det|>[[10, 20, 500, 80]]<|/det|>
# A title

<|ref|>image<|/ref|><|det|>[[0, 0, 999, 500], [0, 500, 500, 999]]<|/det|>
<|ref|>table<|/ref|><|det|>[[12, 300, 1500, 420]]<|/det|>
<table><tr><td>1</td><td>2</td></tr></table>"""
MARKDOWN = """# A title

![](images/{0}0.jpg)
![](images/{0}1.jpg)


<table><tr><td>1</td><td>2</td></tr></table>"""


@pytest.fixture
def model(ocr, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ["--model", str(ocr.converted), "--mode", "tiny", "--max-new-tokens", "6"]


@pytest.fixture
def scans(tmp_path):
    """Two pictures, a PDF of three pages, and below them a picture of the same name."""
    (tmp_path / "scans" / "more").mkdir(parents=True)
    for name, copy in (
        (PICTURES / "page.png", "page.png"),
        (SQUARE, "b.jpg"),
        (PICTURES / "turned.png", "more/page.png"),
    ):
        with Image.open(name) as picture:
            picture.convert("RGB").save(tmp_path / "scans" / copy)
    pages = [Image.open(name).convert("RGB") for name in (PICTURES / "page.png", PICTURES / "banner.png", SQUARE)]
    pages[0].save(tmp_path / "scans" / "report.PDF", save_all=True, append_images=pages[1:], resolution=144)
    (tmp_path / "scans" / "notes.txt").write_text("nothing to read", encoding="utf-8")
    return tmp_path / "scans"


@pytest.fixture
def answers(monkeypatch):
    """Replaces the text of answers, by what a function gives for their numbers and pictures; None leaves one alone."""

    def replace_by(text_of, ended="eos"):
        count = iter(range(10_000))

        def ask(chat, text, pictures, **options):
            found = []
            for picture, answer in zip(pictures, ask_each(chat, text, pictures, **options), strict=True):
                other = text_of(next(count), picture)
                found.append(answer if other is None else dataclasses.replace(answer, text=other, ended=ended))
            return found

        monkeypatch.setattr(reading, "ask_each", ask)

    return replace_by


def contents(folder="out"):
    """Of all files, by their names."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def records(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_a_picture_streams_to_the_terminal(ocr, model, capsys):
    """What a conversation gives, greedily."""
    assert main(["ocr", str(PICTURES / "page.png"), *model]) == 0
    ocr.processor.image_processor.mode, before = "tiny", ocr.processor.image_processor.mode
    try:
        chat = Chat(ocr.model, ocr.processor, do_sample=False, repetition_penalty=1.0, max_new_tokens=6)
        expected = chat.ask(PROMPTS["document"], [str(PICTURES / "page.png")])
    finally:
        ocr.processor.image_processor.mode = before
    printed = capsys.readouterr()
    assert printed.out.strip() == expected
    assert printed.err == f"cut off before their end (1): {PICTURES / 'page.png'}\n"


def test_several_pages_are_named(scans, model, capsys):
    assert main(["ocr", "scans/b.jpg", "scans/report.PDF", "--pages", "2-", *model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("<!--")] == [
        *("<!-- scans/b.jpg -->", "<!-- scans/report.PDF, page 2 -->", "<!-- scans/report.PDF, page 3 -->")
    ]


def test_json_on_the_terminal(scans, model, answers, capsys):
    answers(lambda number, picture: PAGE)
    assert main(["ocr", "scans/page.png", "scans/none.png", "--json", "--task", "ocr", *model]) == 1
    printed = capsys.readouterr()
    (record,) = map(json.loads, printed.out.splitlines())
    assert (record["prompt"], record["page"], record["width"], record["height"]) == (PROMPTS["ocr"], 1, 744, 1052)
    assert [block["label"] for block in record["blocks"]] == ["title", "image", "table"]
    assert "There is no file 'scans/none.png'" in printed.err


@pytest.mark.parametrize("size", ["1", "3"])
def test_a_folder(scans, model, capsys, size):
    """All that is in it, in batches; each answer is the one that the page gets alone."""
    asked = ["ocr", "scans", "--recursive", "--output", "out", "--batch-size", size, *model]
    assert main(asked) == 0
    assert set(contents()) == {
        "ocr.json",
        *(f"{name}/{name}.{suffix}" for name in ("b", "page", "report", "page-2") for suffix in ("md", "jsonl")),
    }
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("6 of 6 pages read in out, ")
    cut_off = "scans/b.jpg; scans/page.png; scans/report.PDF, pages 1-3; scans/more/page.png"
    assert printed.err.endswith(f" pages per minute.\ncut off before their end (6): {cut_off}\n")
    assert records("out/page-2/page-2.jsonl")[0]["source"] == "scans/more/page.png"
    for number, record in enumerate(records("out/report/report.jsonl")):
        assert main(["ocr", "scans/report.PDF", "--pages", str(number + 1), *model]) == 0
        assert capsys.readouterr().out.strip() == record["answer"]
        assert (record["page"], record["ended"], record["new_tokens"]) == (number + 1, "length", 6)
        assert record["settings"] == {"mode": "tiny", "max_new_tokens": 6}


def test_layout_figures_and_boxes(scans, model, answers, capsys):
    answers(lambda number, picture: PAGE)
    assert main(["ocr", "scans/page.png", "scans/report.PDF", "--output", "out", "--boxes", *model]) == 0
    assert "cut off" not in capsys.readouterr().err
    assert Path("out/page/page.md").read_text(encoding="utf-8") == MARKDOWN.format("") + "\n"
    assert Path("out/report/report.md").read_text(encoding="utf-8") == "\n---\n\n".join(
        f"<!-- page {page} -->\n\n{MARKDOWN.format(f'{page}_')}\n" for page in (1, 2, 3)
    )
    with Image.open("out/page/images/1.jpg") as figure, Image.open("out/page/boxes/1.jpg") as drawn:
        assert figure.size == (372, 526)
        assert drawn.size == (744, 1052)
    assert sorted(path.name for path in Path("out/report/images").iterdir()) == [
        f"{page}_{number}.jpg" for page in (1, 2, 3) for number in (0, 1)
    ]
    (record,) = records("out/page/page.jsonl")
    assert record["blocks"][2]["boxes"] == [[8, 315, 744, 442]]
    assert record["notes"] == ["'table': [12, 300, 1500, 420] reaches beyond 0 to 999 and is clipped."]
    assert record["answer"] == PAGE


def test_pages_without_an_end_are_marked(scans, model, answers, capsys):
    answers(lambda number, picture: "again and again", ended="length")
    assert main(["ocr", "scans/report.PDF", "--pages", "2", "--output", "out", *model]) == 0
    assert capsys.readouterr().err.endswith("cut off before their end (1): scans/report.PDF, page 2\n")
    assert records("out/report/report.jsonl")[0]["ended"] == "length"
    assert Path("out/report/report.md").read_text(encoding="utf-8").startswith("<!-- page 2, cut off -->\n")


def test_a_run_goes_on_where_it_was_stopped(scans, model, answers, capsys, monkeypatch):
    """Ctrl-C in the second batch: pages that are read can be looked at, and are not read again."""
    asked = ["ocr", "scans/report.PDF", "scans/b.jpg", "--batch-size", "2", *model]
    answers(lambda number, picture: PAGE)
    assert main([*asked, "--output", "whole"]) == 0
    capsys.readouterr()
    sizes, ask = [], reading.ask_each

    def stopped(chat, text, pictures, **options):
        sizes.append(len(pictures))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return ask(chat, text, pictures, **options)

    monkeypatch.setattr(reading, "ask_each", stopped)
    assert main([*asked, "--output", "out"]) == 130
    assert capsys.readouterr().err == "2 pages are read in out; the same command with --resume goes on.\nstopped\n"
    assert "<!-- page 2 -->" in Path("out/report/report.md").read_text(encoding="utf-8")
    before = contents()
    assert main([*asked, "--output", "out"]) == 1
    assert main([*asked, "--output", "out", "--resume", "--mode", "base"]) == 1
    printed = capsys.readouterr().err
    assert "out holds results already. Pass --resume" in printed
    assert "mode 'tiny' there, 'base' here" in printed
    assert contents() == before
    assert main([*asked, "--output", "out", "--resume"]) == 0
    assert "4 of 4 pages read in out, 2 of them from before, " in capsys.readouterr().err
    assert sizes == [2, 1, 1, 1]  # a PDF and a picture are never in one batch
    assert contents() == contents("whole")
    monkeypatch.setattr(command, "load_chat", None)  # there is nothing left to read
    assert main([*asked, "--output", "out", "--resume"]) == 0
    assert capsys.readouterr().err == "4 of 4 pages read in out, 4 of them from before.\n"
    assert contents() == contents("whole")


def test_a_full_disk_ends_a_run_and_leaves_pages(scans, model, answers, capsys, monkeypatch):
    asked = ["ocr", "scans", "--batch-size", "1", "--boxes", *model]
    answers(lambda number, picture: PAGE)
    assert main([*asked, "--output", "whole"]) == 0
    left, write = [9], output.write_whole

    def filling(path, write_content):
        left[0] -= 1
        if left[0] < 0:
            write(path, lambda file: file.write(b"half"))
            path.unlink()
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, write_content)

    monkeypatch.setattr(output, "write_whole", filling)
    capsys.readouterr()
    assert main([*asked, "--output", "out"]) == 1
    message = capsys.readouterr().err
    assert "1 pages are read in out" not in message
    assert "1 page is read in out; the same command with --resume goes on." in message
    assert ": No space left on device" in message
    whole = contents("whole")
    assert all(content == whole[name] for name, content in contents().items())
    assert "b/b.md" in contents()
    monkeypatch.setattr(output, "write_whole", write)
    assert main([*asked, "--output", "out", "--resume"]) == 0
    assert contents() == whole


def test_what_cannot_be_read_is_listed(scans, model, answers, capsys):
    """A picture that is none, one of which nothing is left, a damaged page, a PDF that is none; the rest is read."""
    (scans / "b.jpg").write_bytes((scans / "b.jpg").read_bytes()[:2000])
    (scans / "none.pdf").write_bytes(b"none")
    Image.new("RGB", (3000, 1)).save(scans / "thin.png")
    Image.new("RGB", (1, 1)).save(scans / "dot.png")
    data = (scans / "report.PDF").read_bytes()
    page = re.search(rb"/Kids \[ \d+ 0 R (\d+) 0 R \d+ 0 R", data)[1]
    damaged = re.sub(rb"(?<=\n)%s 0 obj ?<<" % page, lambda found: b"%s 0 obj 42" % page, data)
    (scans / "report.PDF").write_bytes(damaged)
    asked = ["ocr", "scans", "missing.png", "--output", "out", *model[:2], "--max-new-tokens", "2"]
    assert main(asked) == 1
    *_, first, second, third, fourth, fifth, last = capsys.readouterr().err.splitlines()
    told = sorted([first, second, third, fourth, fifth])
    assert told[0].startswith("error: missing.png: There is no file")
    assert told[1].startswith("error: scans/b.jpg: No image could be read")
    assert told[2].startswith("error: scans/none.pdf: The PDF is damaged, has no pages, or is none.")
    assert told[3].startswith("error: scans/report.PDF, page 2: The page is damaged")
    assert told[4].startswith("error: scans/thin.png: Found an image of 3000 x 1 pixels, of which nothing is left")
    assert last == "error: 5 not read; --resume tries them again."
    assert [record["page"] for record in records("out/report/report.jsonl")] == [1, 3]
    assert records("out/dot/dot.jsonl")[0]["width"] == 1
    shutil.copy(SQUARE, "missing.png")
    (scans / "report.PDF").write_bytes(data)
    assert main([*asked, "--resume"]) == 1
    assert "error: 3 not read" in capsys.readouterr().err
    assert [record["page"] for record in records("out/report/report.jsonl")] == [1, 2, 3]
    assert Path("out/missing/missing.md").exists()


def test_results_are_not_read_as_pictures(scans, model, answers, capsys):
    """Of a folder of results that stands among what is read."""
    answers(lambda number, picture: PAGE)
    asked = ["ocr", "scans", "--recursive", "--output", "scans/out", "--resume", *model]
    assert main(asked) == main(asked) == 0
    assert capsys.readouterr().err.endswith("6 of 6 pages read in scans/out, 6 of them from before.\n")


def test_an_empty_folder(model, capsys, monkeypatch):
    monkeypatch.setattr(command, "load_chat", None)
    Path("empty").mkdir()
    assert main(["ocr", "empty", "--output", "out", *model]) == 1
    assert "error: empty: Found no pictures and no PDF files in this folder." in capsys.readouterr().err
    assert main(["ocr", "empty", *model]) == 1
    assert not Path("out").exists()


def test_another_family(scans, vl, capsys):
    assert main(["ocr", str(scans / "page.png"), "--model", str(vl.converted)]) == 1
    assert "is a deepseek_vl model; expected deepseek_ocr. Name a DeepSeek-OCR checkpoint" in capsys.readouterr().err


def test_pages_of_pictures(scans, model, capsys):
    assert main(["ocr", "scans/page.png", "--pages", "2", *model]) == 1
    assert "Found --pages without a document that has several" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        ([], [OF_PICTURES, OF_PDFS]),
        (["--ngram", "10"], [(10, 90), (10, 50)]),
        (["--ngram-window", "200"], [(30, 200), (20, 200)]),
        (["--ngram", "0"], [None, None]),
    ],
)
def test_what_generate_is_asked_for(scans, model, monkeypatch, given, rules):
    """Greedily, in the mode that was named, and with the authors' rule for documents of a kind."""
    seen = []

    def ask(chat, text, pictures, **options):
        (rule,) = [processor._rule for processor in options["logits_processor"]] or [None]
        seen.append((chat.processor.image_processor.mode, options["do_sample"], options["max_new_tokens"], rule))
        return ask_each(chat, text, pictures, **options)

    monkeypatch.setattr(reading, "ask_each", ask)
    assert main(["ocr", "scans/b.jpg", "scans/report.PDF", "--pages", "1", "--output", "out", *model, *given]) == 0
    found = [rule and dataclasses.astuple(rule) for *_, rule in seen]
    assert found == [rule if rule is None or isinstance(rule, tuple) else dataclasses.astuple(rule) for rule in rules]
    assert {row[:3] for row in seen} == {("tiny", False, 6)}


def test_the_rule_changes_answers(scans, model, capsys):
    """The small model soon repeats itself; no token may come twice."""
    asked = ["ocr", "scans/page.png", *model[:4], "--max-new-tokens", "24"]
    printed = []
    for ngram in ("0", "1"):
        assert main([*asked, "--ngram", ngram]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] != printed[1]


def test_the_bar_tells_pages_per_minute():
    written = io.StringIO()
    with command.PageBar(desc="reading", total=8, initial=2, disable=False, file=written, mininterval=0) as bar:
        bar.start_t -= 30
        bar.update(3)
    assert "reading:  62%" in written.getvalue()
    assert "5/8 pages [00:30<00:" in written.getvalue()
    assert "6.0 pages per minute" in written.getvalue()


def test_pages_that_were_cut_off_are_told_in_ranges():
    plan = command.Plan()
    document = Document("a.pdf", 20, is_pdf=True)
    for number in (2, 5, 6, 7, 12, 13):
        plan.note_end(Page(document, number), "length")
    plan.note_end(Page(document, 14), "eos")
    plan.note_end(Page(Document("b.png"), 1), "stopped")
    assert [*command._cut_off(plan)] == ["a.pdf, pages 2, 5-7, 12-13", "b.png"]


def test_the_command_line_knows_the_package():
    assert set(words.TASKS) == set(PROMPTS)
    assert tuple(words.MODES) == tuple(MODES)
    assert words.MODE == DEFAULT_MODE
    assert [dataclasses.astuple(rule) for rule in (OF_PICTURES, OF_PDFS)] == [words.OF_PICTURES, words.OF_PDFS]


def test_prompts_of_the_command_line(scans, model, capsys):
    for given, prompt in (
        ([], PROMPTS["document"]),
        (["--task", "free"], PROMPTS["free"]),
        (["-p", "Read it."], "Read it."),
        (["--task", "locate", "-p", "the {car}"], "Locate <|ref|>the {car}<|/ref|> in the image."),
    ):
        assert main(["ocr", "scans/b.jpg", "--json", *model[:4], "--max-new-tokens", "1", *given]) == 0
        assert json.loads(capsys.readouterr().out)["prompt"] == prompt


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png", "the following arguments are required: --model"),
        ("--model m", "the following arguments are required: SOURCE"),
        ("a.png --model m --mode huge", "invalid choice: 'huge'"),
        ("a.png --model m --task read", "invalid choice: 'read'"),
        ("a.png --model m --task locate", "found --task locate without --prompt"),
        ("a.png --model m --task free -p x", "found --prompt with --task free"),
        ("a.png --model m --prompt=", "found ''; expected the text of a prompt"),
        ("a.png --model m --resume", "found --resume without --output"),
        ("a.png --model m --boxes", "found --boxes without --output"),
        ("a.png --model m --batch-size 4", "found --batch-size without --output"),
        ("a.png --model m --output o --json", "found --json with --output, which writes JSON lines anyway"),
        ("a.png --model m --output o --batch-size 0", "found '0'; expected a whole number of at least 1"),
        ("a.png --model m --pages 0", "found '0'; expected pages such as 3-7,12"),
        ("a.png --model m --pages 7-3", "found '7-3'; expected pages"),
        ("a.png --model m --pages 3,,4", "found '3,,4'; expected pages"),
        ("a.png --model m --ngram -1", "found '-1'; expected a whole number of at least 0"),
        ("a.png --model m --ngram 60", "found 60 tokens in a row within a window of 50"),
        ("a.png --model m --ngram 0 --ngram-window 9", "found --ngram-window with --ngram 0"),
        ("a.png --model m --max-new-tokens 0", "found '0'; expected a whole number of at least 1"),
    ],
)
def test_refused_words(capsys, line, message):
    with pytest.raises(SystemExit) as stop:
        parse(["ocr", *line.split()])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
