"""Pictures that a person names: files and links, with errors that say which one it was."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..pictures.opening import open_image, to_rgb

LINKS = ("http:", "https:", "data:", "file:")
LONGEST_NAME = 100


@dataclass(frozen=True)
class Found:
    """A picture that is to be described.

    Attributes:
        name: file or link.
        fault: why there is none; "" where nothing is known against it.
    """

    name: str
    fault: str = ""


def find_pictures(sources: Sequence[str], recursive: bool) -> list[Found]:
    """The pictures that people name, in order; of folders all that are in them, by name.

    What counts as a picture in a folder is decided by its suffix. Hidden files and folders, and links to folders, are
    left out. A folder without pictures, or one that cannot be read, has an entry of its own with its fault.

    Args:
        sources: files, folders and links.
        recursive: whether folders in folders are looked through.
    """
    found: list[Found] = []
    for source in sources:
        folder = os.path.expanduser(source)  # noqa: PTH111 - pathlib raises for home folders that nobody has
        if not source.strip() or is_link(source) or not os.path.isdir(folder):  # noqa: PTH112
            found.append(Found(source))
            continue
        inside = _in_folder(folder, recursive)
        found += inside or [Found(source, f"{short_name(source)}: {_NO_PICTURES[recursive]}")]
    return found


_NO_PICTURES = {
    False: "Found no pictures in this folder. Name another, or pass --recursive for the folders in it.",
    True: "Found no pictures in this folder or in those below it. Name another.",
}


def _in_folder(folder: str, recursive: bool) -> list[Found]:
    found: list[Found] = []

    def note(error: OSError) -> None:
        found.append(Found(str(error.filename), f"{error.filename}: {error.strerror}"))

    suffixes = _suffixes()
    for place, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        found += [Found(os.path.join(place, name)) for name in names if Path(name).suffix.lower() in suffixes]  # noqa: PTH118
    return found


def _suffixes() -> frozenset[str]:
    """Of the files that Pillow reads and that are still pictures, not films, documents or tables."""
    formats = Image.registered_extensions().items()
    of_pictures = {name for name in Image.OPEN if Image.MIME.get(name, "").startswith("image/")}
    return frozenset(suffix for suffix, name in formats if name in of_pictures)


def open_picture(source: str) -> Image.Image:
    """Reads a picture.

    Args:
        source: a file, of the home folder with `~`, or a link.

    Raises:
        ValueError: it cannot be read; the message begins with its name.
    """
    if not source.strip():
        raise ValueError("Found no name of a picture. Name a file or a link.")
    try:
        # pathlib raises for texts that are too long to be a path, and for home folders that nobody has.
        if os.path.isdir(os.path.expanduser(source)):  # noqa: PTH111, PTH112
            raise ValueError("This is a folder. Name the pictures in it.")
        picture = open_image(source)
        to_rgb(picture)  # decodes it; what becomes of transparency is the checkpoint's setting
        return picture
    except (TypeError, ValueError) as error:
        raise ValueError(f"{short_name(source)}: {error}") from error


def check_picture(source: str) -> None:
    """Raises what `open_picture` would for a file that is none, or no picture, without decoding it; links are left."""
    if is_link(source):
        return
    try:
        with Image.open(Path(source).expanduser()):
            return
    except Exception:  # whatever it is, it is told in the words of the package
        open_picture(source)


def fault_of(*sources: str) -> str:
    """What `check_picture` says of the first picture that has a fault; "" where none has."""
    try:
        for source in sources:
            check_picture(source)
    except ValueError as error:
        return str(error)
    return ""


def shown_name(source: str) -> str:
    """A picture's name for a person who knows it: that of the file without its folders."""
    of_a_file = not is_link(source) or source.lower().startswith("file:")
    return short_name(re.split(r"[/\\]", source)[-1] if of_a_file else source)


def short_name(source: str) -> str:
    """A picture's name for a message; `data:` links are long."""
    return source if len(source) <= LONGEST_NAME else f"{source[:LONGEST_NAME]}..."


def is_link(source: str) -> bool:
    """Whether a picture's name is no path."""
    return source.strip().lower().startswith(LINKS)
