"""Documents and their pages: PDF files, pictures, and TIFF files with several pictures. Nothing is opened in advance.

source --document_of--> how many pages --choose_pages--> which --open_pages--> one picture after the other
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from PIL import Image, ImageOps

from ..pictures.colors import to_rgb, with_known_depth
from ..pictures.opening import open_image
from ..pictures.sources import link_scheme
from .pdf import SUFFIX, is_pdf, open_pdf, render_page
from .repetition import OF_PDFS, OF_PICTURES, Repetition

# First and last of each range, from 1.
PageRanges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Document:
    """A file with pages.

    Attributes:
        source: as it was named: a path or a link.
        count: how many pages it has.
        is_pdf: whether it is a PDF rather than a picture.
    """

    source: str
    count: int = 1
    is_pdf: bool = False

    @property
    def repetition(self) -> Repetition:
        """The authors' rule for documents of this kind."""
        return OF_PDFS if self.is_pdf else OF_PICTURES


@dataclass(frozen=True)
class Page:
    """A page, opened.

    Attributes:
        document: it belongs to this one.
        number: in its document, from 1.
        picture: upright, RGB; None where there is none.
        failure: why there is none.
    """

    document: Document
    number: int
    picture: Image.Image | None = None
    failure: Exception | None = None

    @property
    def title(self) -> str:
        """How a person knows it, without its document's folder."""
        return f"page {self.number}" if self.document.count > 1 else ""


def document_of(source: str) -> Document:
    """Looks at a file; pictures are not decoded, and links are taken for pictures of one page.

    Raises:
        ImportError: it is a PDF, and pypdfium2 is not installed.
        ValueError: it is a PDF that cannot be read, or a link to one.
    """
    if link_scheme(source):
        if source.strip().lower().endswith(SUFFIX):
            raise ValueError("PDF files are not read through links. Download it, and name the file.")
        return Document(source)
    path = _path(source)
    if is_pdf(path):
        with open_pdf(path) as document:
            return Document(source, len(document), is_pdf=True)
    # What is no picture at all is told when it is opened.
    with suppress(Exception), Image.open(path) as image:
        if image.format == "TIFF":  # of other formats the pictures are an animation's
            return Document(source, getattr(image, "n_frames", 1))
    return Document(source)


def choose_pages(document: Document, ranges: PageRanges | None) -> list[int]:
    """The numbers of the pages that were asked for, in order; all pages without ranges.

    Raises:
        ValueError: it has none of them.
    """
    if ranges is None or (document.count == 1 and not document.is_pdf):
        return [*range(1, document.count + 1)]
    pages = {page for first, last in ranges for page in range(first, min(last, document.count) + 1)}
    if not pages:
        have = f"{document.count} page{'s' if document.count > 1 else ''}"
        raise ValueError(f"The document has {have}, and none of those that were asked for.")
    return sorted(pages)


def open_pages(document: Document, numbers: Iterable[int], transparency: str) -> Iterator[Page]:
    """One page after the other, each rendered when it is asked for; a page that fails does not keep the next from it.

    Args:
        document: from `document_of`.
        numbers: of the pages.
        transparency: see `pictures.colors.to_rgb`.
    """
    numbers = [*numbers]
    if not document.is_pdf:
        for number in numbers:
            yield _picture_page(document, number, transparency)
        return
    left = iter(numbers)
    try:
        with open_pdf(_path(document.source)) as pdf:
            for number in left:
                yield _pdf_page(document, pdf, number)
    except ValueError as error:  # it was readable when its pages were counted
        for number in left:
            yield Page(document, number, failure=error)


def batches(pages: Iterable[Page], size: int) -> Iterator[list[Page]]:
    """Pages in batches of at most `size`; all of a batch are of PDFs, or none."""
    batch: list[Page] = []
    for page in pages:
        if batch and batch[0].document.is_pdf != page.document.is_pdf:
            yield batch
            batch = []
        batch.append(page)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _pdf_page(document: Document, pdf: object, number: int) -> Page:
    try:
        return Page(document, number, render_page(pdf, number))
    except ValueError as error:
        return Page(document, number, failure=error)


def _picture_page(document: Document, number: int, transparency: str) -> Page:
    try:
        source = document.source
        picture = open_image(source) if document.count == 1 else _open_frame(_path(source), number)
        return Page(document, number, to_rgb(picture, transparency=transparency))
    except (OSError, SyntaxError, TypeError, ValueError) as error:
        return Page(document, number, failure=error)


def _open_frame(path: str, number: int) -> Image.Image:
    with Image.open(path) as image:
        try:
            image.seek(number - 1)
            return ImageOps.exif_transpose(with_known_depth(image))
        except Exception as error:  # whatever a damaged file comes up with
            raise ValueError(f"No image could be read: {type(error).__name__}: {error}.") from error


def _path(source: str) -> str:
    return os.path.expanduser(source)  # noqa: PTH111 - pathlib raises for home folders that nobody has
