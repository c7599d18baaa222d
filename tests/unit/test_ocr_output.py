"""The folder of results: names, whole files, runs that go on, and what is refused."""

import errno
import json
import re

import pytest
from PIL import Image

from deepseek_vl_hf.chat.batch import BatchAnswer
from deepseek_vl_hf.ocr import output, read_layout
from deepseek_vl_hf.ocr.output import DocumentFolder, OutputFolder, name_of, write_text
from deepseek_vl_hf.ocr.pages import Document, Page
from deepseek_vl_hf.ocr.reading import PageResult

ASKED = {"model": "m", "prompt": "p", "settings": {"mode": "tiny"}}
FIGURE = "<|ref|>image<|/ref|><|det|>[[0, 0, 500, 999]]<|/det|>"


def result_of(document, number, text, ended="eos"):
    page = Page(document, number, Image.new("RGB", (40, 20), "red"))
    names = {1: "images/{}.jpg"}.get(document.count, f"images/{number}_{{}}.jpg")
    return PageResult(page, BatchAnswer(text, 3, ended), read_layout(text, page.picture.size, names.format))


def folder_of(tmp_path, *documents, resume=False):
    folder = OutputFolder(tmp_path / "out", ASKED, resume)
    folders = folder.documents(documents)
    folder.begin()
    return folders


def files_in(path):
    return sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file())


def test_a_picture(tmp_path):
    document = Document("scans/a.png")
    (folder,) = folder_of(tmp_path, document)
    folder.write(result_of(document, 1, f"Text\n{FIGURE}"), boxes=True)
    assert not folder.is_joined
    folder.join()
    assert folder.is_joined
    assert files_in(tmp_path / "out") == ["a/a.jsonl", "a/a.md", "a/boxes/1.jpg", "a/images/0.jpg", "ocr.json"]
    assert (tmp_path / "out/a/a.md").read_text(encoding="utf-8") == "Text\n![](images/0.jpg)\n"
    with Image.open(tmp_path / "out/a/images/0.jpg") as figure, Image.open(tmp_path / "out/a/boxes/1.jpg") as drawn:
        assert figure.size == (20, 20)
        assert drawn.size == (40, 20)
        assert len(drawn.getcolors(800)) > 1
    assert json.loads((tmp_path / "out/a/a.jsonl").read_text(encoding="utf-8")) == {
        "source": "scans/a.png",
        **{"page": 1, "width": 40, "height": 20},
        "blocks": [
            {"label": "", "text": "Text", "boxes": [], "figures": []},
            {"label": "image", "text": "", "boxes": [[0, 0, 20, 20]], "figures": ["images/0.jpg"]},
        ],
        **{"markdown": "Text\n![](images/0.jpg)", "answer": f"Text\n{FIGURE}"},
        **{"new_tokens": 3, "ended": "eos", "notes": [], **ASKED},
    }


def test_pages_are_joined_in_their_order(tmp_path):
    """Also those of a later run, which leaves the earlier ones as they are."""
    document = Document("a.pdf", 9, is_pdf=True)
    (folder,) = folder_of(tmp_path, document)
    folder.write(result_of(document, 10, "ten"), boxes=False)
    folder.write(result_of(document, 2, f"two\n{FIGURE}", ended="length"), boxes=False)
    folder.join()
    text = "<!-- page 2, cut off -->\n\ntwo\n![](images/2_0.jpg)\n\n---\n\n<!-- page 10 -->\n\nten\n"
    assert (folder.path / "a.md").read_text(encoding="utf-8") == text
    (again,) = folder_of(tmp_path, document, resume=True)
    assert sorted(again.records) == [2, 10]
    again.write(result_of(document, 3, "three"), boxes=False)
    again.join()
    pages = [json.loads(line)["page"] for line in (folder.path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert pages == [2, 3, 10]
    assert files_in(folder.path) == ["a.jsonl", "a.md", "images/2_0.jpg"]


def test_pages_that_were_not_joined_are_found(tmp_path):
    """As after a crash, of which a torn record is the worst that can come."""
    document = Document("a.pdf", 9, is_pdf=True)
    (folder,) = folder_of(tmp_path, document)
    for page in (1, 2):
        folder.write(result_of(document, page, "text"), boxes=False)
    torn = folder.path / "pages" / "2.json"
    torn.write_bytes(torn.read_bytes()[:50])
    (again,) = folder_of(tmp_path, document, resume=True)
    assert [*again.records] == [1]
    assert not again.is_joined
    assert not torn.exists()


@pytest.mark.parametrize("failing", ["1.json", "1_0.jpg", "a.jsonl", "a.md", "ocr.json"])
def test_a_full_disk_leaves_whole_files(tmp_path, monkeypatch, failing):
    """Whatever file it is that does not fit: all others are whole, and nothing is left of it."""
    document = Document("a.pdf", 2, is_pdf=True)
    whole = output.write_whole

    def write(path, write_content):
        def filling(file):
            write_content(file)
            if path.name == failing:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))

        whole(path, filling)

    monkeypatch.setattr(output, "write_whole", write)

    def run():
        (folder,) = folder_of(tmp_path, document)
        folder.write(result_of(document, 2, "before"), boxes=False)
        folder.write(result_of(document, 1, f"two\n{FIGURE}"), boxes=False)
        folder.join()

    with pytest.raises(OSError, match="No space left"):
        run()
    assert not [name for name in files_in(tmp_path) if failing in name or "partial" in name]
    monkeypatch.setattr(output, "write_whole", whole)
    if failing != "ocr.json":
        (again,) = folder_of(tmp_path, document, resume=True)
        assert not again.is_joined
        assert sorted(again.records) == ([2] if failing in ("1.json", "1_0.jpg") else [1, 2])


def test_a_file_that_fails_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def fill(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: .*a\.txt'"):
        output.write_whole(path, fill)
    with pytest.raises(ZeroDivisionError):
        output.write_whole(path, lambda file: file.write(b"half") and 1 / 0)
    assert path.read_text(encoding="utf-8") == "before"
    assert files_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/report.pdf", "report"),
        ("C:\\scans\\a.png", "a"),
        ("archive.tar.png", "archive.tar"),
        ("https://example.org/a%20b/c%20d.png?x=1#y", "c d"),
        ("data:image/png;base64,AAAA", "picture"),
        ("a/..", "picture"),
        ("what? a: *name*.png", "what_ a_ _name_"),
        ("ü" * 90 + ".png", "ü" * 50),
        ("...", "picture"),
    ],
)
def test_names(source, name):
    assert name_of(source) == name


def test_equal_names_do_not_meet(tmp_path):
    """Not even where file systems ignore capitals; a name that looks like ours is left alone, too."""
    sources = ["a/scan.png", "b/scan.pdf", "c/SCAN.png", "scan-2.png", "ocr.json.png"]
    documents = [Document(source) for source in sources]
    expected = ["scan", "scan-2", "SCAN-3", "scan-2-2", "ocr.json-2"]
    assert [folder.name for folder in folder_of(tmp_path, *documents)] == expected
    again = folder_of(tmp_path, Document("new/scan.png"), *reversed(documents), resume=True)
    assert [folder.name for folder in again] == ["scan-4", *reversed(expected)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": "n"}, "model 'm' there, 'n' here"),
        ({"prompt": "q"}, "prompt 'p' there, 'q' here"),
        ({"settings": {"mode": "base"}}, "mode 'tiny' there, 'base' here"),
        ({"settings": {"mode": "tiny", "boxes": True}}, "boxes not given there, True here"),
        ({"settings": {}}, "mode 'tiny' there, not given here"),
    ],
)
def test_results_of_something_else_are_not_gone_on_with(tmp_path, other, message):
    folder_of(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"holds results of something else: {message}.")):
        OutputFolder(tmp_path / "out", {**ASKED, **other}, resume=True)


@pytest.mark.parametrize(
    ("name", "content", "resume", "message"),
    [
        ("out", "file", True, "out is a file; expected a folder"),
        ("out/notes.txt", "file", True, "holds something else. Name a new or an empty folder"),
        ("out/ocr.json", "{}", False, "holds results already. Pass --resume"),
        ("out/ocr.json", "{}", True, "is not of this command"),
        ("out/ocr.json", "[", True, "is not of this command"),
        ("out/ocr.json", json.dumps({**ASKED, "documents": {"../a": "a.png"}}), True, "'../a' is no name"),
        ("out/ocr.json", json.dumps({**ASKED, "documents": {"..": "a.png"}}), True, "'..' is no name"),
    ],
)
def test_folders_of_something_else_are_left_alone(tmp_path, name, content, resume, message):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        OutputFolder(tmp_path / "out", ASKED, resume)
    assert files_in(tmp_path) == [name]


def test_a_folder_nowhere(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*missing\. Create it"):
        OutputFolder(tmp_path / "missing" / "out", ASKED, resume=False)


def test_records_of_something_else_are_named(tmp_path):
    document = Document("a.pdf", 2, is_pdf=True)
    (folder,) = folder_of(tmp_path, document)
    folder.write(result_of(document, 1, "one"), boxes=False)
    folder.join()
    with (folder.path / "a.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"page": 2}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2, is not of this command"):
        DocumentFolder(OutputFolder(tmp_path / "out", ASKED, resume=True), "a", document)


def test_figures_beyond_what_jpeg_can_hold(tmp_path):
    output._save(tmp_path / "a.jpg", Image.new("RGB", (65600, 8)))
    with Image.open(tmp_path / "a.jpg") as saved:
        assert saved.size == (65500, 8)
