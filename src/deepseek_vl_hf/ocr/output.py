"""The folder of results. Every file in it appears whole or not at all, whatever ends a run.

OUT/ocr.json             what was asked of which model, and which document has which name
OUT/NAME/NAME.md         all pages
OUT/NAME/NAME.jsonl      a record for each page
OUT/NAME/images/N.jpg    figures; P_N.jpg for page P of a document with several
OUT/NAME/boxes/P.jpg     pages with the boxes drawn, if asked for
OUT/NAME/pages/P.json    records of pages that are read, until they are joined

The records of a document are joined when its last page is read. A run that goes on adds to them and joins anew.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from PIL import Image

from ..chat.asked import ASKED, differences
from ..pictures.drawing import draw_boxes
from .pages import Document
from .reading import ENDED, PageResult

RUN = "ocr.json"
QUALITY, LONGEST_SIDE = 95, 65500  # of JPEG
LONGEST_NAME = 100  # bytes
LONGEST_LABEL = 40  # characters, beside a box
# What some file system or shell takes for something else.
_UNUSABLE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*%#]+')
LINKS = ("http://", "https://", "data:", "file:")


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file under another name and renames it, so that it is there as a whole or as it was.

    Raises:
        OSError: the disk is full, for example; it names the file.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # that of a write names none
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """`write_whole` for text in UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()))


class OutputFolder:
    """The folder of a run, a new one or one to go on with. It appears with the first page.

    Args:
        path: there is a folder that it stands in.
        asked: the values of `ASKED` for this run.
        resume: whether to go on with what is there.

    Raises:
        ValueError: the folder holds something else, or results without `resume`, or those of another model, to another
            prompt, or with other settings.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], resume: bool) -> None:
        self.path, self.asked = path, {name: asked[name] for name in ASKED}
        self._names: dict[str, str] = {}  # of documents, by their sources
        if not path.resolve().parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}. Create it, or name another --output.")
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; expected a folder. Name another --output.")
        if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
            raise ValueError(f"{path} may not be written. Name another --output.")
        if (path / RUN).exists():
            self._read(resume)
        elif path.exists() and any(not each.name.startswith(".") for each in path.iterdir()):
            raise ValueError(f"{path} holds something else. Name a new or an empty folder as --output.")

    def documents(self, documents: Iterable[Document]) -> list["DocumentFolder"]:
        """A place for each document: that of an earlier run, or a name that no other has.

        Raises:
            ValueError: the records of an earlier run cannot be read.
        """
        return [DocumentFolder(self, self._name(document.source), document) for document in documents]

    def begin(self) -> None:
        """Creates the folder, or notes the documents that are new in it.

        Raises:
            OSError: it cannot be written.
        """
        self.path.mkdir(exist_ok=True)
        content = {**self.asked, "documents": {name: source for source, name in self._names.items()}}
        write_text(self.path / RUN, json.dumps(content, ensure_ascii=False, indent=1) + "\n")

    def _name(self, source: str) -> str:
        source = source.encode("utf-8", "backslashreplace").decode()
        if source not in self._names:
            # As file systems compare them that do not know capitals; .casefold is what they do, about.
            taken = {RUN, *(name.casefold() for name in self._names.values())}
            name = first = name_of(source)
            number = 1
            while name.casefold() in taken:
                number += 1
                name = f"{first}-{number}"
            self._names[source] = name
        return self._names[source]

    def _read(self, resume: bool) -> None:
        path = self.path / RUN
        if not resume:
            raise ValueError(f"{self.path} holds results already. Pass --resume to go on, or name another --output.")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self._names = {source: _plain(name) for name, source in found["documents"].items()}
            differing = list(differences({name: found[name] for name in ASKED}, self.asked))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not of this command: {error!r}. Name another --output.") from error
        if differing:
            raise ValueError(
                f"{self.path} holds results of something else: {'; '.join(differing)}. Ask as before, or name "
                "another --output."
            )


class DocumentFolder:
    """What is written of one document.

    Args:
        folder: it stands in there.
        name: its own.
        document: what is read.

    Attributes:
        path: of its folder.
        records: for each page that is read its record, as JSON.

    Raises:
        ValueError: the records of an earlier run cannot be read.
    """

    def __init__(self, folder: OutputFolder, name: str, document: Document) -> None:
        self.path, self.name, self.document = folder.path / name, name, document
        self._asked = folder.asked
        self.records: dict[int, str] = {}
        if self._joined.exists():
            for number, line in enumerate(self._joined.read_text(encoding="utf-8").split("\n")[:-1]):
                if (page := _page_of(line)) is None:
                    raise ValueError(f"{self._joined}, line {number + 1}, is not of this command. Move it away.")
                self.records[page] = line
        for path in self._apart():
            line = path.read_text(encoding="utf-8", errors="replace")
            if (page := _page_of(line)) is None:  # torn by a crash of the machine: the page is read again
                path.unlink()
            else:
                self.records[page] = line

    @property
    def is_joined(self) -> bool:
        """Whether Markdown and JSON lines hold all pages that are read."""
        return not self._apart()

    def write(self, result: PageResult, boxes: bool) -> None:
        """Adds a page. Its record comes last, so that a page that has one is complete.

        Args:
            result: with an answer.
            boxes: whether the page is also saved with its boxes drawn.

        Raises:
            OSError: the disk is full, for example.
        """
        picture, layout, number = result.page.picture, result.layout, result.page.number
        if picture is None or layout is None:
            raise ValueError(f"{self.document.source}, page {number}: no result.")
        self._pages.mkdir(parents=True, exist_ok=True)
        for name, box in layout.figures.items():
            _save(self.path / name, picture.crop(box))
        if boxes:
            marked = [block for block in layout.blocks if block.boxes]
            labels = [block.label[:LONGEST_LABEL] for block in marked]
            _save(self.path / "boxes" / f"{number}.jpg", draw_boxes(picture, labels, [each.boxes for each in marked]))
        record = json.dumps({**result.record(), **self._asked}, ensure_ascii=False)
        write_text(self._pages / f"{number}.json", record)
        self.records[number] = record

    def join(self) -> None:
        """Writes Markdown and JSON lines of all pages that are read.

        Raises:
            OSError: the disk is full, for example; the pages' own records are then still there.
        """
        records = [self.records[page] for page in sorted(self.records)]
        write_text(self._joined, "".join(f"{record}\n" for record in records))
        pages = [json.loads(record) for record in records]
        write_text(self.path / f"{self.name}.md", joined_markdown(pages, self.document.count))
        for path in self._apart():
            path.unlink()
        self._pages.rmdir()

    @property
    def _pages(self) -> Path:
        return self.path / "pages"

    @property
    def _joined(self) -> Path:
        return self.path / f"{self.name}.jsonl"

    def _apart(self) -> list[Path]:
        return [*self._pages.glob("[0-9]*.json")]


def joined_markdown(pages: Sequence[Mapping[str, Any]], count: int) -> str:
    """One document's Markdown.

    Args:
        pages: records in order.
        count: pages of the document. Between those of several stand a thematic break and a comment that names the page:
            renderers show a line, programs find the number.
    """
    if count == 1:
        return "".join(f"{page['markdown']}\n" for page in pages)
    texts = []
    for page in pages:
        cut_off = "" if page["ended"] == ENDED else ", cut off"
        texts.append(f"<!-- page {page['page']}{cut_off} -->\n\n{page['markdown']}\n")
    return "\n---\n\n".join(texts)


def name_of(source: str) -> str:
    """A name for a document that every file system takes: its file's without folders and suffix."""
    lower = source.strip().lower()
    if lower.startswith("data:"):
        return "picture"
    path = unquote(urlsplit(source.strip()).path) if lower.startswith(LINKS) else source
    stem = Path(re.split(r"[/\\]", path.rstrip("/\\"))[-1]).stem
    name = _UNUSABLE.sub("_", stem).encode()[:LONGEST_NAME].decode("utf-8", "ignore").strip(" .")
    return name or "picture"


def _plain(name: str) -> str:
    """The same; raises ValueError for one that leads out of the folder."""
    if _UNUSABLE.search(name) or not name.strip(" ."):
        raise ValueError(f"{name!r} is no name of a document")
    return name


def _save(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if max(picture.size) > LONGEST_SIDE:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    write_whole(path, lambda file: picture.save(file, format="JPEG", quality=QUALITY))


def _page_of(record: str) -> int | None:
    """The page of a record; None if it is none."""
    try:
        found = json.loads(record)
        return int(found["page"]) if {"markdown", "ended"} <= found.keys() else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
