"""Files of conversations: JSON lines or a JSON array, with pictures beside them.

bytes of the file
  --UTF-8, or an error that says what it is-->
rows, each with the place where it stands
  --read by `rows.conversation_of`; paths of pictures made absolute and looked for-->
rows for `ConversationCollator`
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoints.layouts.files import without_duplicates
from ..conversation.chat_templates import IMAGE_PLACEHOLDER
from ..conversation.messages import IMAGE_KEYS, image_parts
from .rows import conversation_of

# Encodings that a file which is no UTF-8 may have, told by how it begins.
_BEGINNINGS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
# "http://", "data:" and their like; a single letter is a drive of Windows.
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:")
# No name of a file is longer; a longer text is base64, which is read when the picture is used.
_LONGEST_FILE_NAME = 255


def load_conversations(path: str | os.PathLike[str], image_token: str = IMAGE_PLACEHOLDER) -> list[dict[str, Any]]:
    """Reads conversations from a file of JSON lines, or of one JSON array, for `ConversationCollator`.

    A row is an object with `messages`, in any shape that the processors read, or in those of ms-swift, LLaMA-Factory,
    TRL and LLaVA; `rows.conversation_of` says how. Paths of pictures are taken relative to the file's folder. Every
    row is checked, and whether each picture is there; pictures are opened when they are used.

    Args:
        path: the file, in UTF-8.
        image_token: what stands for an image, beside `<image>`; the processor's `image_token`.

    Returns:
        For each row its `messages`, its `objects` if it has some, and as `place` where it stands, for errors.

    Raises:
        OSError: the file cannot be read.
        ValueError, TypeError: another encoding; no conversation in it; a row that is no such object, holds what nothing
            reads, has no assistant answer, other numbers of pictures and of places for them, or a picture that is
            missing. The error names the file and the line, or in an array the row, counted from one.
    """
    rows, faults = read_conversations(path, image_token)
    if faults:
        raise faults[0]
    return rows


def read_conversations(
    path: str | os.PathLike[str], image_token: str = IMAGE_PLACEHOLDER
) -> tuple[list[dict[str, Any]], list[ValueError | TypeError]]:
    """As `load_conversations`, but goes on after rows that are at fault, so that all of them can be told at once.

    Returns:
        The rows that are none, and an error for each that is.

    Raises:
        OSError, ValueError: the file cannot be read, is in another encoding or holds nothing.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    faults: list[ValueError | TypeError] = []
    for read, place in _rows_of(_text_of(path), str(path)):
        try:
            rows.append(_checked_row(read(), place, path.parent, image_token))
        except (TypeError, ValueError) as error:
            faults.append(error)
    if not rows and not faults:
        raise ValueError(f"{path} holds no conversation; expected one JSON object with `messages` per line.")
    return rows, faults


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    named = next((name for beginning, name in _BEGINNINGS.items() if content.startswith(beginning)), None)
    if named is None and b"\0" in content[:4]:
        named = "UTF-16 or UTF-32"  # without a mark at the beginning: every other byte of plain letters is zero
    try:
        if named is None:
            return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        named = f"another encoding, such as GBK or Latin-1: line {line} holds the byte 0x{content[error.start]:02x}"
    raise ValueError(
        f"{path} is not in UTF-8 but in {named}. Save it as UTF-8, for example with "
        "`iconv -f ENCODING -t UTF-8 FILE > NEW`."
    )


def _rows_of(text: str, file: str) -> Iterator[tuple[Callable[[], Any], str]]:
    """What reads each row, and its place: of a JSON array the elements, else one per line."""
    if text.lstrip()[:1] == "[":
        rows = _parsed(text, file)
        yield from ((partial(_as_it_is, row), f"{file}, row {number}") for number, row in enumerate(rows, 1))
        return
    # Not splitlines(): JSON strings may hold Unicode's other line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{file}, line {number}"
            yield partial(_parsed, line, place), place


def _as_it_is(row: Any) -> Any:
    return row


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=without_duplicates)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON: {error}. Expected an object on each line, or one array.") from error
    except RecursionError as error:
        raise ValueError(f"{place} cannot be read as JSON: it is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{place} names {error} twice, or holds a number that is too long.") from error


def _checked_row(row: Any, place: str, folder: Path, image_token: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(
            f'{place} is a {type(row).__name__}, not an object with a list of messages; expected {{"messages": [...]}}.'
        )
    try:
        messages = conversation_of({name: value for name, value in row.items() if name != "place"}, image_token)
        for number, part in enumerate(image_parts(messages), 1):
            _find_picture(part, f"Picture {number}", folder)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{place}: {error}") from error
    objects = {"objects": row["objects"]} if row.get("objects") else {}
    return {"messages": messages, "place": place, **objects}


def _find_picture(part: dict[str, Any], name: str, folder: Path) -> None:
    """Makes the path of a part's picture absolute, if it has one that is relative to `folder`."""
    key = next(key for key in IMAGE_KEYS if key in part)
    source = part[key]
    if isinstance(source, Mapping) and source.get("bytes") is None:  # as `datasets` writes pictures that lie in files
        source = source.get("path")
    if not isinstance(source, str) or key == "base64" or _SCHEME.match(source) or len(source) > _LONGEST_FILE_NAME:
        return
    found = folder / Path(source.strip()).expanduser()
    if not found.is_file():
        raise ValueError(
            f"{name} is {source}, and there is no file {found}. Paths are relative to the folder of the file of "
            "conversations."
        )
    part[key] = str(found)
