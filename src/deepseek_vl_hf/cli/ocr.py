"""`deepseek-vl ocr`: pictures, PDF files and folders of them to Markdown, with a DeepSeek-OCR model."""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..checkpoints.layouts.files import named_folder
from ..ocr.output import DocumentFolder, OutputFolder
from ..ocr.pages import Document, Page, batches, choose_pages, document_of, open_pages
from ..ocr.pdf import SUFFIX
from ..ocr.prompts import prompt_of
from ..ocr.reading import ENDED, Reader, check_reads_documents
from .models import end_progress, load_chat
from .pictures import Found, fault_of, find_pictures, is_link, short_name

# What may change a page's result, and is noted with it if it was given.
SETTINGS = ("mode", "max_new_tokens", "ngram", "ngram_window", "boxes", "dtype", "int4", "fast")
# Bars appear where there is something to wait for.
SECONDS_WITHOUT_BAR = 1


@dataclass
class Plan:
    """What is to be read, and what becomes of it.

    Attributes:
        documents: with the numbers of their pages.
        faults: lines about what could not be read.
        cut_off: numbers of pages whose answers did not come to their end.
        debug: whether tracebacks are shown.
    """

    documents: list[tuple[Document, list[int]]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    cut_off: dict[Document, list[int]] = field(default_factory=dict)
    debug: bool = False

    def note(self, source: str, error: Exception, page: str = "") -> None:
        """Notes a fault of a document, or of a page."""
        if self.debug:
            traceback.print_exception(error)
        label = _label(source, page)
        self.faults.append(str(error) if str(error).startswith(f"{label}: ") else f"{label}: {error}")

    def note_end(self, page: Page, ended: str) -> None:
        """Notes a page whose answer was cut off, of a repetition that went on and on as a rule."""
        if ended != ENDED:
            self.cut_off.setdefault(page.document, []).append(page.number)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 if a document or a page could not be read.

    What cannot be read is told, and the rest is read all the same.

    Raises:
        ImportError: there is a PDF, and pypdfium2 is not installed.
        OSError, ValueError: the model cannot be read or is of another kind, or the results cannot be written or gone on
            with.
    """
    arguments.question = prompt_of(arguments.task, arguments.prompt) if arguments.task else arguments.prompt
    check_reads_documents(arguments.model, named_folder(arguments.model))
    output = None
    if arguments.output is not None:
        output = OutputFolder(Path(arguments.output), _asked(arguments), arguments.resume)
    plan = _plan(arguments)
    if output is None:
        _print_pages(plan, arguments)
    else:
        _write_pages(plan, output, arguments)
    if plan.cut_off:
        count = sum(map(len, plan.cut_off.values()))
        print(f"cut off before their end ({count}): {'; '.join(_cut_off(plan))}", file=sys.stderr)
    for fault in plan.faults:
        print(f"error: {fault}", file=sys.stderr)
    if plan.faults and output is not None:
        print(f"error: {len(plan.faults)} not read; --resume tries them again.", file=sys.stderr)
    return int(bool(plan.faults))


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every record says of its question: the model, the prompt, and the settings that were given."""
    given = {name: getattr(arguments, name) for name in SETTINGS}
    settings = {name: value for name, value in given.items() if value is not None and value is not False}
    return {"model": arguments.model, "prompt": arguments.question, "settings": settings}


def _plan(arguments: argparse.Namespace) -> Plan:
    """Looks at everything that is named, once, before the model is loaded."""
    plan = Plan(debug=arguments.debug)
    found = _find(arguments.sources, arguments.recursive, arguments.output)
    bar = tqdm(found, desc="looking at", unit="file", delay=SECONDS_WITHOUT_BAR, leave=False, disable=None)
    for each in bar:
        try:
            if each.fault:
                raise ValueError(each.fault)
            document = document_of(each.name)
            if not document.is_pdf and (fault := fault_of(each.name)):
                raise ValueError(fault)
            plan.documents.append((document, choose_pages(document, arguments.pages)))
        except ValueError as error:
            plan.note(each.name, error)
    if arguments.pages and plan.documents and all(each.count == 1 and not each.is_pdf for each, _ in plan.documents):
        raise ValueError("Found --pages without a document that has several. Leave it out, or name a PDF.")
    return plan


def _find(sources: Sequence[str], recursive: bool, output: str | None) -> list[Found]:
    """All files that are named, each once; of folders the pictures and PDF files, but for what is in `output`."""
    found: dict[str, Found] = {}
    for source in sources:
        folder = os.path.expanduser(source)  # noqa: PTH111 - pathlib raises for home folders that nobody has
        is_folder = source.strip() and not is_link(source) and os.path.isdir(folder)  # noqa: PTH112
        for each in _in_folder(folder, recursive, output) if is_folder else [Found(source)]:
            found.setdefault(each.name, each)
    return [*found.values()]


def _in_folder(folder: str, recursive: bool, output: str | None) -> list[Found]:
    names = Path(folder).glob("**/*" if recursive else "*")
    pdfs = [
        Found(str(path))
        for path in names
        if path.suffix.lower() == SUFFIX
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    found = [*find_pictures([folder], recursive), *pdfs]
    if output is not None:  # figures of an earlier run are not to be read
        results = Path(output).resolve()
        found = [each for each in found if results not in Path(each.name).resolve().parents]
    files = [each for each in found if each.name != folder]
    if not files:
        return [Found(folder, f"{short_name(folder)}: {_NOTHING_TO_READ[recursive]}")]
    return sorted(files, key=lambda each: (Path(each.name).parent.parts, Path(each.name).name))


_NOTHING_TO_READ = {
    False: "Found no pictures and no PDF files in this folder. Name another, or pass --recursive for those in it.",
    True: "Found no pictures and no PDF files in this folder or in those below it. Name another.",
}


def _reader(arguments: argparse.Namespace) -> Reader:
    return Reader(
        load_chat(arguments),
        arguments.question,
        arguments.mode,
        arguments.max_new_tokens,
        arguments.ngram,
        arguments.ngram_window,
    )


def _opened(documents: Sequence[tuple[Document, list[int]]], transparency: str) -> Iterator[Page]:
    for document, numbers in documents:
        yield from open_pages(document, numbers, transparency)


def _cut_off(plan: Plan) -> Iterator[str]:
    """Documents with their pages, as "report.pdf, pages 3-7, 12"."""
    for document, numbers in plan.cut_off.items():
        ranges: list[list[int]] = []
        for number in numbers:
            if ranges and ranges[-1][-1] == number - 1:
                ranges[-1][1:] = [number]
            else:
                ranges.append([number])
        pages = f"page{'s' * (len(numbers) > 1)} {', '.join('-'.join(map(str, each)) for each in ranges)}"
        yield _label(document.source, pages if document.count > 1 else "")


def _label(source: str, page: str = "") -> str:
    return f"{short_name(source)}, {page}" if page else short_name(source)


# Without --output: answers on the terminal.


def _print_pages(plan: Plan, arguments: argparse.Namespace) -> None:
    """Prints one page after the other as it is read, or a JSON object for each."""
    if not plan.documents:
        return
    reader = _reader(arguments)
    several = sum(len(numbers) for _, numbers in plan.documents) > 1
    for page in _opened(plan.documents, reader.transparency):
        if page.failure is not None:
            plan.note(page.document.source, page.failure, page.title)
        elif arguments.json:
            _print_record(plan, reader, page, _asked(arguments))
        else:
            _print_answer(plan, reader, page, several)


def _print_record(plan: Plan, reader: Reader, page: Page, asked: dict[str, Any]) -> None:
    (result,) = reader.read([page])
    if result.page.failure is not None:
        plan.note(page.document.source, result.page.failure, page.title)
        return
    record = result.record()
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    print(json.dumps({**record, **asked}, ensure_ascii=plain), flush=True)
    plan.note_end(page, record["ended"])


def _print_answer(plan: Plan, reader: Reader, page: Page, several: bool) -> None:
    """Prints an answer as it is made, marks included; below a comment that names the page, if there are several."""
    label = _label(page.document.source, page.title)
    pieces = reader.stream(page)
    try:
        first = next(pieces, "")
        end_progress(reader.chat)
        print(f"<!-- {label} -->\n{first}" if several else first, end="", flush=True)
        try:
            for piece in pieces:
                print(piece, end="", flush=True)
        finally:
            print(flush=True)
    except BrokenPipeError:  # nobody reads the answers any more
        raise
    except (OSError, ValueError) as error:
        plan.note(page.document.source, error, page.title)
        return
    finally:
        end_progress(reader.chat)
    if reader.chat.figures is not None:
        plan.note_end(page, reader.chat.figures.ended)


# With --output: a folder of results.


class PageBar(tqdm):
    """A progress bar that tells pages per minute."""

    FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} pages [{elapsed}<{remaining}, {per_minute}]"

    def __init__(self, **options: Any) -> None:
        super().__init__(bar_format=self.FORMAT, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the line is made of."""
        values: dict[str, Any] = super().format_dict
        return {**values, "per_minute": _per_minute(values["n"] - values["initial"], values["elapsed"])}


def _per_minute(pages: int, seconds: float) -> str:
    return f"{60 * pages / seconds:.1f} pages per minute" if pages and seconds else "? pages per minute"


def _write_pages(plan: Plan, output: OutputFolder, arguments: argparse.Namespace) -> None:
    """Reads what is not read yet, and joins the pages of each document."""
    folders = output.documents([document for document, _ in plan.documents])
    asked_for = [*zip(folders, (numbers for _, numbers in plan.documents), strict=True)]
    left = {folder: [page for page in numbers if page not in folder.records] for folder, numbers in asked_for}
    total = sum(len(numbers) for _, numbers in asked_for)
    before = total - sum(map(len, left.values()))
    start = time.perf_counter()
    if before < total:
        reader = _reader(arguments)
        output.begin()
        start = time.perf_counter()
        _read(plan, reader, left, arguments, PageBar(desc="reading", total=total, initial=before, disable=None))
    for folder in folders:
        if not folder.is_joined:
            folder.join()
    done = sum(page in folder.records for folder, numbers in asked_for for page in numbers)
    speed = _per_minute(done - before, time.perf_counter() - start) if done > before else ""
    details = [f"{before} of them from before"] * bool(before) + [speed] * bool(speed)
    print(f"{done} of {total} pages read in {output.path}{''.join(f', {each}' for each in details)}.", file=sys.stderr)


def _read(
    plan: Plan,
    reader: Reader,
    left: dict[DocumentFolder, list[int]],
    arguments: argparse.Namespace,
    bar: PageBar,
) -> None:
    """Reads batch by batch; a document whose last page is done is joined."""
    folders = {folder.document: folder for folder in left}
    pages = _opened([(folder.document, numbers) for folder, numbers in left.items()], reader.transparency)
    waiting = {folder.document: len(numbers) for folder, numbers in left.items()}
    try:
        with bar:
            for batch in batches(pages, arguments.batch_size):
                for result in reader.read(batch):
                    document, title = result.page.document, result.page.title
                    if result.answer is None:
                        plan.note(document.source, result.page.failure or ValueError("no answer"), title)
                    else:
                        folders[document].write(result, arguments.boxes)
                        plan.note_end(result.page, result.answer.ended)
                    waiting[document] -= 1
                    if not waiting[document] and not folders[document].is_joined:
                        folders[document].join()
                bar.update(len(batch))
    except BaseException:  # Ctrl-C and SIGTERM as well
        _leave(left, arguments.output)
        raise


def _leave(folders: dict[DocumentFolder, list[int]], output: str) -> None:
    """What a run that is ended has read is made readable, as far as the disk allows."""
    with suppress(OSError):
        for folder in folders:
            if not folder.is_joined:
                folder.join()
    if done := sum(len(folder.records) for folder in folders):
        pages = "1 page is" if done == 1 else f"{done} pages are"
        print(f"{pages} read in {output}; the same command with --resume goes on.", file=sys.stderr)
