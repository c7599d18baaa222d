"""Documents and their pages: PDF files of all kinds, pictures, TIFF files; nothing is rendered in advance."""

import builtins
import itertools
import re

import pytest
from PIL import Image, TiffImagePlugin

from deepseek_vl_command.ocr import page_ranges
from deepseek_vl_hf.ocr import pages, pdf
from deepseek_vl_hf.ocr.pages import Document, Page, batches, choose_pages, document_of, open_pages
from family import FIXTURES

pytest.importorskip("pypdfium2")

PICTURES = FIXTURES / "deepseek_ocr" / "images"


def pdf_of(*kids, trailer="", catalog="", extra=()):
    """The bytes of a PDF whose pages are these objects; `extra` are objects behind them."""
    numbers = range(3, 3 + len(kids))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{number} 0 R' for number in numbers)}] >>",
        *kids,
        *extra,
    ]
    data, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects):
        places.append(len(data))
        data += f"{number + 1} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    start = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    data += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n"
    return data.encode()


def page_of(width=72, height=36, more=""):
    return f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] {more} >>"


ENCRYPTED = pdf_of(
    page_of(),
    trailer=f"/ID [<{'00' * 16}><{'00' * 16}>] /Encrypt 4 0 R",
    extra=[f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{'11' * 32}> /U <{'22' * 32}> >>"],
)


@pytest.fixture
def write(tmp_path):
    def write(data, name="a.pdf"):
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write


def opened(source, numbers=None):
    document = document_of(source)
    return [*open_pages(document, numbers or range(1, document.count + 1), "white")]


def test_pages_have_144_dots_per_inch(write):
    source = write(pdf_of(page_of(72, 36), page_of(100.2, 36)))
    assert document_of(source) == Document(source, 2, is_pdf=True)
    first, second = opened(source)
    assert [first.picture.size, second.picture.size] == [(144, 72), (201, 72)]
    assert first.picture.mode == "RGB"
    assert first.picture.getextrema() == ((255, 255),) * 3
    assert (first.title, second.title) == ("page 1", "page 2")


def test_what_a_page_shows(write, tmp_path):
    """Colors in the right order, and the right way up."""
    picture = Image.new("RGB", (72, 72), (200, 30, 10))
    picture.paste((10, 30, 200), (0, 0, 72, 36))
    picture.save(tmp_path / "a.pdf", resolution=72, quality=100)
    (page,) = opened(str(tmp_path / "a.pdf"))
    assert page.title == ""
    for place, color in (((70, 30), (10, 30, 200)), ((70, 110), (200, 30, 10))):
        assert all(abs(one - other) < 12 for one, other in zip(page.picture.getpixel(place), color, strict=True))


def test_what_is_filled_in_is_seen(write):
    """A field of a form, all black."""
    drawn = "0 0 0 rg 0 0 72 36 re f"
    field = "<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /V (b) /F 4 /Rect [0 0 72 36] /AP << /N 5 0 R >> >>"
    look = f"<< /Type /XObject /Subtype /Form /BBox [0 0 72 36] /Length {len(drawn)} >>\nstream\n{drawn}\nendstream"
    form = pdf_of(page_of(more="/Annots [4 0 R]"), catalog="/AcroForm << /Fields [4 0 R] >>", extra=[field, look])
    (page,) = opened(write(form))
    assert max(page.picture.getpixel((72, 36))) < 80


@pytest.mark.parametrize("size", [(14400, 14400), (1, 14400), (1, 1)])
def test_pages_of_any_size(write, monkeypatch, size):
    monkeypatch.setattr(pdf, "MOST_PIXELS", 1_000_000)
    (page,) = opened(write(pdf_of(page_of(*size))))
    width, height = page.picture.size
    assert width * height <= 1_010_000
    assert abs(width / height - size[0] / size[1]) < 0.01


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The file is empty; expected a PDF."),
        (b"none", "The PDF is damaged, has no pages, or is none."),
        (pdf_of(page_of())[:60], "The PDF is damaged, has no pages, or is none."),
        (ENCRYPTED, "encrypted with a password. Save a copy without one"),
        (pdf_of(), "The PDF is damaged, has no pages, or is none."),
    ],
)
def test_documents_that_cannot_be_opened(write, data, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        document_of(write(data))


def test_links():
    assert document_of("https://example.org/a.png") == Document("https://example.org/a.png")
    with pytest.raises(ValueError, match=r"not read through links\. Download it"):
        document_of("https://example.org/A.PDF")


def test_a_missing_pdf(tmp_path):
    with pytest.raises(ValueError, match="There is no such file"):
        document_of(str(tmp_path / "a.pdf"))


def test_a_damaged_page_leaves_the_others(write):
    first, broken, third = opened(write(pdf_of(page_of(), "42", page_of())))
    assert first.picture.size == third.picture.size == (144, 72)
    assert broken.picture is None
    assert "The page is damaged" in str(broken.failure)


def test_a_document_that_is_gone_when_it_is_read(write, tmp_path):
    document = document_of(write(pdf_of(page_of(), page_of())))
    (tmp_path / "a.pdf").unlink()
    assert [(page.number, str(page.failure)) for page in open_pages(document, [1, 2], "white")] == [
        (1, "There is no such file."),
        (2, "There is no such file."),
    ]


def test_a_thousand_pages_are_rendered_one_batch_at_a_time(write, monkeypatch):
    document = document_of(write(pdf_of(*[page_of()] * 1000)))
    assert document.count == 1000
    rendered, render = [], pdf.render_page
    monkeypatch.setattr(pages, "render_page", lambda pdf, number: rendered.append(number) or render(pdf, number))
    groups = batches(open_pages(document, choose_pages(document, None), "white"), 3)
    for count in (3, 6, 9):
        assert len(next(groups)) == 3
        assert len(rendered) == count
    assert sum(map(len, groups)) == 991


def test_without_pypdfium2(write, monkeypatch):
    source, load = write(pdf_of(page_of())), builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pypdfium2":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=re.escape("pip install 'pypdfium2>=4.30'")):
        document_of(source)
    assert document_of(str(PICTURES / "page.png")).count == 1


def test_pdfs_are_known_by_their_first_bytes(write):
    source = write(b"\n" + pdf_of(page_of()), "scan")
    assert document_of(source).is_pdf
    assert not document_of(str(PICTURES / "page.png")).is_pdf


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_tiff_files_with_several_pictures(tmp_path):
    source = str(tmp_path / "fax.tif")
    with TiffImagePlugin.AppendingTiffWriter(source, True) as file:
        for level in (10, 20, 30):
            Image.new("L", (8, 4), level).save(file, format="TIFF")
            file.newFrame()
    assert document_of(source) == Document(source, 3)
    assert [page.picture.getpixel((0, 0)) for page in opened(source)] == [(10,) * 3, (20,) * 3, (30,) * 3]
    assert [page.number for page in opened(source, [3])] == [3]
    whole = (tmp_path / "fax.tif").read_bytes()
    document = document_of(source)
    (tmp_path / "fax.tif").write_bytes(whole[:8])
    assert all(page.picture is None and page.failure for page in open_pages(document, [1, 3], "white"))


def test_pictures_are_upright():
    (page,) = opened(str(PICTURES / "turned.png"))
    assert page.picture.size == (420, 700)


@pytest.mark.parametrize("content", [b"", b"none", (PICTURES / "page.png").read_bytes()[:3000]])
def test_unreadable_pictures(write, content):
    (page,) = opened(write(content, "a.png"))
    assert page.picture is None
    assert "No image could be read from" in str(page.failure)


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("3-7,12", 20, [3, 4, 5, 6, 7, 12]),
        ("3-7,12", 5, [3, 4, 5]),
        ("2,1,2", 9, [1, 2]),
        (" 4 - 5 ", 9, [4, 5]),
        ("8-", 10, [8, 9, 10]),
        ("1-999999999", 2, [1, 2]),
    ],
)
def test_ranges_of_pages(text, count, expected):
    assert choose_pages(Document("a.pdf", count, is_pdf=True), page_ranges(text)) == expected


def test_pages_that_are_not_there():
    with pytest.raises(ValueError, match="has 2 pages, and none of those"):
        choose_pages(Document("a.pdf", 2, is_pdf=True), [(3, 7)])
    with pytest.raises(ValueError, match="has 1 page, and none of those"):
        choose_pages(Document("a.pdf", 1, is_pdf=True), [(2, 2)])
    assert choose_pages(Document("a.png"), [(3, 7)]) == [1]


def test_batches_are_of_one_kind():
    picture, document = Document("a.png"), Document("a.pdf", 9, is_pdf=True)
    kinds = [picture, picture, picture, document, document, picture]
    groups = batches((Page(kind, number) for number, kind in enumerate(kinds)), 2)
    numbers = [[page.number for page in group] for group in groups]
    assert numbers == [[0, 1], [2], [3, 4], [5]]
    assert [*itertools.chain.from_iterable(numbers)] == [*range(6)]
