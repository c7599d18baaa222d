"""Where pictures come from: paths, links, `data:` URIs, base64 text, bytes and open files, read into Pillow images."""

import base64
import inspect
import io
import os
import reprlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, unquote_to_bytes
from urllib.request import url2pathname

from PIL import Image, ImageOps

from .colors import with_known_depth
from .links import LinkError, fetch

EXPECTED_SOURCE = "Expected a path to an image file, an http(s) URL, a file: or data: URI, or base64 text."
# What undecoded pictures of `datasets` consist of.
OF_DATASETS = {"bytes", "path"}
# Fewer characters are rather a word than a picture.
SHORTEST_BASE64 = 64
# How files begin that are taken for pictures, and what to do about them.
NO_PICTURES = {
    "<!doctype html": "it is a web page; link to the picture itself, and see whether one has to log in",
    "<html": "it is a web page; link to the picture itself, and see whether one has to log in",
    "<svg": "it is an SVG drawing, which Pillow does not read; convert it to PNG",
    "%pdf": "it is a PDF document; convert its pages to PNG, or read it with deepseek-vl ocr",
    "version https://git-lfs": "it is the pointer of a Git LFS file; fetch the file itself (git lfs pull)",
}


def open_image(source: Any, local: bool = True) -> Any:
    """Reads a picture from where it is; Pillow images, arrays and tensors are handed back as they are.

    Orientation tags (EXIF) are applied to what is read here, as transformers' `load_image` does. Pillow's limit against
    decompression bombs stays in force.

    Args:
        source: one of these.

            * a string: a path, also with `~`; an http(s) link, see `links.fetch`; a `file:` or `data:` URI; base64
              text. Blanks around it do not count.
            * a path object, which is never taken for a link.
            * the bytes of a picture's file, or `{"bytes": ..., "path": ...}`, of which the path is used where there
              are no bytes.
            * an open binary file, or what has one as `file`, as uploads do. It is read from its beginning, and left
              open where it stood; one that cannot be rewound is read to its end from where it stands.
        local: whether strings may name files, and servers on this machine or its network. Whoever takes pictures from
            strangers passes False.

    Returns:
        A Pillow image in memory in its file's mode, for `to_rgb`.

    Raises:
        TypeError: a file opened as text, or a dict that is something else.
        ValueError: there is no readable image, with the (shortened) source in the message.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), f"{len(source)} bytes")
    if isinstance(source, os.PathLike):
        return _open_file(os.fsdecode(source))
    if isinstance(source, str):
        return _open_text(source, local)
    if isinstance(source, Mapping) and source and set(source) <= OF_DATASETS:
        return _open_datasets(source, local)
    if isinstance(source, (type, Image.Image)):
        return source
    file = _file_of(source)
    return source if file is None else _open_stream(file)


def link_scheme(text: str) -> str:
    """Which link a text is: "http", "https", "data" or "file", whatever its capitals; "" for anything else."""
    scheme, _, rest = text.strip().partition(":")
    scheme = scheme.lower()
    if scheme in ("http", "https") and rest.startswith("//"):
        return scheme
    return scheme if rest and scheme in ("data", "file") else ""


def _open_text(source: str, local: bool) -> Image.Image:
    text = source.strip()
    scheme, rest = link_scheme(text), text.partition(":")[2]
    if scheme in ("http", "https"):
        return _reading(_shorten(text), lambda: _open_bytes(fetch(text, private=local)), text)
    if scheme == "data":
        return _reading(_shorten(text), lambda: _open_bytes(_data_of_uri(rest)), text)
    path = _path(source, text, rest if scheme == "file" else None)
    if local and path is not None:
        return _open_file(path)
    if scheme != "file":
        data = _from_base64(text)
        if data and len(text) > SHORTEST_BASE64:
            return _decode(data, _shorten(text))
    if not local:
        raise ValueError(f"{_shorten(text)} is refused. Expected an http(s) URL, a data: URI or base64 text.")
    if os.path.isdir(os.path.expanduser(text)):  # noqa: PTH111, PTH112 - as below
        raise ValueError(f"{_shorten(text)} is a folder. {EXPECTED_SOURCE}")
    other, _, _ = text.partition("://")
    if other != text and other.isalnum() and not scheme:
        raise ValueError(f"Links of the kind {other}:// are not read: {_shorten(text)}. {EXPECTED_SOURCE}")
    raise ValueError(f"There is no file {_shorten(text)}. {EXPECTED_SOURCE}")


def _path(source: str, text: str, uri: str | None) -> str | None:
    """The file that a string names, if there is one."""
    candidates = [source, text, os.path.expanduser(text)]  # noqa: PTH111 - as below
    if uri is not None:
        candidates += _paths_of_uri(uri)
    # os.path, because pathlib raises for texts that are too long to be a path.
    return next((path for path in candidates if os.path.isfile(path)), None)  # noqa: PTH113


def _paths_of_uri(rest: str) -> list[str]:
    """Of what stands after `file:`: with its escapes resolved, and as it is, which not everybody escapes."""
    if rest.startswith("//"):
        host, _, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise ValueError(
                f"The link {_shorten('file:' + rest)} names a file of the computer {host!r}. Expected file:///path, "
                "with three strokes and the whole path."
            )
        rest = f"/{path}"
    return [url2pathname(rest), rest]


def _open_file(path: str) -> Image.Image:
    """A file on this machine; a path object comes here as it is."""
    if not os.path.isfile(path):  # noqa: PTH113
        what = "is a folder" if os.path.isdir(path) else None  # noqa: PTH112
        found = f"{_shorten(path)} {what}" if what else f"There is no file {_shorten(path)}"
        raise ValueError(f"{found}. {EXPECTED_SOURCE}")

    def read() -> Image.Image:
        with open(path, "rb") as file:  # noqa: PTH123
            return _open_encoded(file)

    return _reading(_shorten(path), read, path)


def _open_datasets(source: Mapping[str, Any], local: bool) -> Any:
    data, path = source.get("bytes"), source.get("path")
    if data is None:
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(
                f"Found a picture of which the bytes are None and the path is {_shorten(path)}; expected one of them."
            )
        return open_image(path, local)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"Found a {type(data).__name__} as a picture's bytes; expected bytes.")
    name = _shorten(str(path)) if path else f"{len(data)} bytes"
    return _decode(bytes(data), name)


def _file_of(source: Any) -> Any:
    """The binary file that something is or holds; None if it is none."""
    for file in (source, getattr(source, "file", None)):
        read = getattr(file, "read", None)
        # Uploads of asynchronous frameworks hold a plain file.
        if callable(read) and not inspect.iscoroutinefunction(read):
            return file
    return None


def _open_stream(file: Any) -> Image.Image:
    """Reads an open file as a whole, and leaves it as it was."""
    name = getattr(file, "name", None)
    place = _shorten(name) if isinstance(name, (str, bytes)) else f"a {type(file).__name__}"
    try:
        data = _read_whole(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"No image could be read from {place}: {type(error).__name__}: {error}.") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"Reading {place} gave {type(data).__name__} where a picture's bytes were expected. Open the file in "
            'binary mode, as in open(path, "rb").'
        )
    return _decode(bytes(data), place)


def _read_whole(file: Any) -> Any:
    """From its beginning, and back to where it stood."""
    try:
        start = file.tell()
        file.seek(0)
    except (AttributeError, OSError):  # a pipe, or an answer of a server
        return file.read()
    try:
        return file.read()
    finally:
        file.seek(start)


def _decode(data: bytes, name: str) -> Image.Image:
    return _reading(name, lambda: _open_bytes(data))


def _open_bytes(data: bytes) -> Image.Image:
    return _open_encoded(io.BytesIO(data))


def _open_encoded(file: Any) -> Image.Image:
    """An encoded picture, decoded as a whole, with its orientation applied."""
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(with_known_depth(image))
    except Image.UnidentifiedImageError as error:
        file.seek(0)
        raise Image.UnidentifiedImageError(_what_it_is(file.read(512))) from error


def _what_it_is(head: bytes) -> str:
    """What a file without a picture is, by how it begins."""
    if not head:
        return "it is empty"
    text = head.decode("utf-8-sig", "replace").strip().lower()
    if text.startswith("<?xml") and "<svg" in text:
        text = "<svg"
    unknown = f"it begins with {_shorten(head[:40])}, and is not a picture that Pillow can read"
    return next((what for begin, what in NO_PICTURES.items() if text.startswith(begin)), unknown)


def _reading(place: str, read: Callable[[], Image.Image], source: str = "") -> Image.Image:
    """Reads, and says of what fails where it was read from; the source may be too long to be repeated."""
    try:
        return read()
    except Exception as error:  # whatever the reader, the network client or a damaged file comes up with
        reason = f"{type(error).__name__}: {_shorten(str(error).replace(source or place, '...'))}"
        if isinstance(error, (LinkError, Image.UnidentifiedImageError)):
            reason = str(error)  # says all by itself
        raise ValueError(
            f"No image could be read from {place}: {reason}. Expected a complete image that Pillow can open."
        ) from error


def _data_of_uri(rest: str) -> bytes:
    """The bytes of a `data:` URI, of any media type or none, in base64 or escaped."""
    head, comma, data = rest.partition(",")
    if not comma:
        raise ValueError("a data: URI has a comma before its data")
    if head.strip().lower().endswith(";base64"):
        decoded = _from_base64(unquote(data))
        if data and not decoded:
            raise ValueError("what follows the comma is not base64 text")
        return decoded
    return unquote_to_bytes(data)


def _from_base64(text: str) -> bytes:
    """Of base64 text, also with line breaks, in the alphabet of URLs, or without its padding.

    Empty where it is none.
    """
    text = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return b""


def _shorten(text: Any) -> str:
    shortener = reprlib.Repr()
    shortener.maxstring = 120
    return shortener.repr(text)
