"""The file of answers that `deepseek-vl describe --output` writes, as JSON lines or as CSV.

Each record says what was asked of which model, so that a file stands for itself and a run can go on with it. Records
are written whole, whatever ends the run; what a crash of the machine may have torn is cut off before a run goes on.
"""

import csv
import io
import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from deepseek_vl_command.describing import CSV

from ..chat.asked import ASKED, differences

# What a record holds: the answer, and what it is an answer to.
ANSWER = ("picture", "answer", "new_tokens", "ended")
FIELDS = (*ANSWER, *ASKED)
LONGEST_FIELD = 2**31 - 1


class AnswerFile:
    """A file of answers, a new one or one to go on with. It appears with its first record.

    Args:
        path: ends in .jsonl or .csv.
        asked: the values of `ASKED` for this run: `model`, `prompt`, and the `settings` that were given.
        resume: whether to go on with what is there.

    Attributes:
        done: pictures that have an answer, by their names as they are written.

    Raises:
        ValueError: the file is there without `resume`, is something else, or holds answers of another model, to another
            prompt, or with other settings.
        OSError: it cannot be read, or its folder is not there.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], resume: bool) -> None:
        self.path, self.asked = path, {name: asked[name] for name in ASKED}
        self.done: set[str] = set()
        self._size = 0
        self._file: io.FileIO | None = None
        self._exists = path.exists()
        if not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}. Create it, or name another --output.")
        if self._exists and not path.is_file():
            raise ValueError(f"{path} is not a file. Name another --output.")
        if self._exists and not resume:
            raise ValueError(f"{path} is there already. Pass --resume to continue it, or name another --output.")
        if not os.access(path if self._exists else path.parent, os.W_OK):
            raise ValueError(f"{path} may not be written. Name another --output.")
        if self._exists:
            self._read()

    def __contains__(self, picture: str) -> bool:
        """Whether a picture has its answer."""
        return written_name(picture) in self.done

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Adds records, all of them or none.

        Args:
            answers: the values of `ANSWER`.

        Raises:
            OSError: the disk is full, for example.
        """
        records = [{**answer, "picture": written_name(answer["picture"]), **self.asked} for answer in answers]
        if not records:
            return
        file = self._opened()
        head = "" if self._size or not self._is_csv else _csv_line(FIELDS)
        rest = memoryview((head + "".join(map(self._line, records))).encode())
        size = self._size + len(rest)
        try:
            while rest:  # a disk that is almost full takes a part
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(self._size)
            raise
        self._size = size
        self.done.update(record["picture"] for record in records)

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix.lower() == CSV

    def _line(self, record: dict[str, Any]) -> str:
        if self._is_csv:
            return _csv_line([*(record[name] for name in FIELDS[:-1]), json.dumps(record["settings"])])
        return json.dumps({name: record[name] for name in FIELDS}, ensure_ascii=False) + "\n"

    def _opened(self) -> io.FileIO:
        if self._file is None:
            # Where there was none, none is overwritten that came in between.
            self._file = io.FileIO(self.path, "r+" if self._exists else "x")
            self._file.truncate(self._size)
            self._file.seek(self._size)
        return self._file

    def _read(self) -> None:
        """Notes what is done; what is torn at the end is left to be cut off."""
        text = self.path.read_bytes().decode("utf-8", "surrogateescape")
        end, number = 0, 0
        try:
            for record, record_end in (_csv_records if self._is_csv else _json_records)(text):
                self._note(record, number + 1)
                end, number = record_end, number + 1
        except (csv.Error, json.JSONDecodeError) as error:
            raise ValueError(f"{self._place(number + 1)} cannot be read: {error}. Name another --output.") from error
        if end == 0 and text and not self._begins_like_ours(text):
            raise ValueError(f"{self.path} is not a file of answers. Name another --output.")
        self._size = len(text[:end].encode("utf-8", "surrogateescape"))

    def _begins_like_ours(self, text: str) -> bool:
        ours = _csv_line(FIELDS) if self._is_csv else '{"picture": "'
        return text.startswith(ours[: len(text)])

    def _note(self, record: Any, number: int) -> None:
        if not isinstance(record, dict) or set(record) != set(FIELDS) or not isinstance(record["picture"], str):
            raise ValueError(f"{self._place(number)} is not an answer of this command. Name another --output.")
        differing = list(differences({name: record[name] for name in ASKED}, self.asked))
        if differing:
            raise ValueError(
                f"{self._place(number)} answers something else: {'; '.join(differing)}. Ask as before, or name "
                "another --output."
            )
        self.done.add(record["picture"])

    def _place(self, number: int) -> str:
        return f"{self.path}, record {number},"


def written_name(picture: str) -> str:
    """A picture's name as it stands in files: bytes that are no UTF-8 are escaped."""
    return picture.encode("utf-8", "backslashreplace").decode()


def _csv_line(values: Iterable[Any]) -> str:
    """A row in which every text is quoted, so that a quote that is missing or too many shows itself when it is read."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow(values)
    return line.getvalue()


def _json_records(text: str) -> Iterator[tuple[Any, int]]:
    """Each whole line's value, and where it ends."""
    end = 0
    for line in text.split("\n")[:-1]:
        end += len(line) + 1
        yield json.loads(line), end


def _csv_records(text: str) -> Iterator[tuple[Any, int]]:
    """Each whole record below the head, and where it ends; quoted fields may hold several lines."""
    csv.field_size_limit(LONGEST_FIELD)
    end, rest = 0, iter(text.split("\n")[:-1])
    at_end = False

    def lines() -> Iterator[str]:
        nonlocal end, at_end
        for line in rest:
            end += len(line) + 1
            yield f"{line}\n"
        at_end = True

    rows = csv.reader(lines(), strict=True)
    try:
        for number, row in enumerate(rows):
            if number:
                yield _record(row), end
            elif tuple(row) != FIELDS:
                raise csv.Error(f"the first line is {reprlib.repr(','.join(row))}, expected {','.join(FIELDS)}")
    except csv.Error:
        if not at_end:  # else a field is torn
            raise


def _record(row: list[str]) -> Any:
    if len(row) != len(FIELDS):
        return row
    record: dict[str, Any] = dict(zip(FIELDS, row, strict=True))
    with suppress(json.JSONDecodeError):
        record["settings"] = json.loads(record["settings"])
    return record
