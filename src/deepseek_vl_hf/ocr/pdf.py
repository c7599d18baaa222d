"""Pages of PDF files as pictures, one at a time, through PDFium."""

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

DPI = 144  # the authors'
POINTS_PER_INCH = 72
# Twice a sheet of A0. A larger page is rendered more coarsely; a PDF may ask for any size.
MOST_PIXELS = 64_000_000
SUFFIX, BEGINNING, SEARCHED = ".pdf", b"%PDF-", 1024


def is_pdf(path: str) -> bool:
    """Whether a file is a PDF, by its name or, like other readers, by its first kilobyte."""
    if path.lower().endswith(SUFFIX):
        return True
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib raises for texts that are too long to be a path
            return BEGINNING in file.read(SEARCHED)
    except (OSError, ValueError):
        return False


@contextmanager
def open_pdf(path: str) -> Iterator[Any]:
    """A PDF, open: `len` gives its pages.

    Raises:
        ImportError: pypdfium2 is not installed.
        ValueError: there is no such file, or it is encrypted, damaged, empty or without pages.
    """
    try:
        import pypdfium2  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("PDF files need pypdfium2: pip install 'pypdfium2>=4.30'") from error
    if not os.path.isfile(path):  # noqa: PTH113 - as above
        raise ValueError("There is no such file.")
    try:
        document = pypdfium2.PdfDocument(path)
    except (pypdfium2.PdfiumError, OSError) as error:
        raise ValueError(_reason(path)) from error
    try:
        document.init_forms()  # else what is filled in stays invisible
        yield document
    finally:
        document.close()


def _reason(path: str) -> str:
    """Why a file was refused. PDFium's own reason is that of an earlier file when there are no pages."""
    if not os.path.getsize(path):  # noqa: PTH202 - as above
        return "The file is empty; expected a PDF."
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # noqa: PTH123
        if content.find(b"/Encrypt") >= 0:
            return "The PDF is encrypted with a password. Save a copy without one, and name that."
    return "The PDF is damaged, has no pages, or is none. Open it in another program, and save it anew from there."


def render_page(document: Any, number: int) -> Image.Image:
    """A page as a picture, RGB, at 144 dpi; on a page beyond `MOST_PIXELS` at fewer.

    Args:
        document: from `open_pdf`.
        number: of the page, from 1.

    Raises:
        ValueError: the page is damaged.
    """
    import pypdfium2  # noqa: PLC0415

    try:
        page = document[number - 1]
    except pypdfium2.PdfiumError as error:
        raise ValueError(f"The page is damaged: {error}") from error
    try:
        width, height = page.get_size()
        scale = min(DPI / POINTS_PER_INCH, math.sqrt(MOST_PIXELS / max(width * height, 1)))
        bitmap = page.render(scale=scale)
        try:
            return bitmap.to_pil().convert("RGB")
        finally:
            bitmap.close()
    except (pypdfium2.PdfiumError, ValueError) as error:
        raise ValueError(f"The page of {width:g} x {height:g} points cannot be rendered: {error}") from error
    finally:
        page.close()
