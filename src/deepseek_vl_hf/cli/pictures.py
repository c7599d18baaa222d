"""Pictures that a person names: files and links, with errors that say which one it was."""

import os
from pathlib import Path

from PIL import Image

from ..pictures.opening import open_image, to_rgb

LINKS = ("http:", "https:", "data:", "file:")
LONGEST_NAME = 100


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
    if _is_link(source):
        return
    try:
        with Image.open(Path(source).expanduser()):
            return
    except Exception:  # whatever it is, it is told in the words of the package
        open_picture(source)


def short_name(source: str) -> str:
    """A picture's name for a message; `data:` links are long."""
    return source if len(source) <= LONGEST_NAME else f"{source[:LONGEST_NAME]}..."


def _is_link(source: str) -> bool:
    return source.strip().lower().startswith(LINKS)
