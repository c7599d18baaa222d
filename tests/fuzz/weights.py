"""safetensors files and indexes, read and damaged without the code under test."""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of the types that weights may have


@dataclass(frozen=True)
class Stored:
    """A tensor as a file holds it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class MalformedError(Exception):
    """What no reader should accept."""


UNREADABLE = (
    *(MalformedError, OSError, ValueError, KeyError, TypeError, ZeroDivisionError, AttributeError, RecursionError),
    struct.error,
)


def well_formed(folder: Path) -> dict[str, Stored] | None:
    """All tensors of a checkpoint whose files and index add up; None of any other."""
    try:
        return _read_folder(folder)
    except UNREADABLE:
        return None


def _require(fact: bool) -> None:
    if not fact:
        raise MalformedError


def _read_folder(folder: Path) -> dict[str, Stored]:
    files = {path.name: read_file(path) for path in folder.glob("*.safetensors")}
    if not (folder / INDEX).is_file():
        return files[SINGLE]  # others beside it are nobody's
    _require(SINGLE not in files)
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"), object_pairs_hook=_without_twins)
    places = index["weight_map"]
    _require({(name, file) for file, tensors in files.items() for name in tensors} == set(places.items()))
    return {name: files[file][name] for name, file in places.items()}


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require(len(dict(pairs)) == len(pairs))
    return dict(pairs)


def read_file(path: Path) -> dict[str, Stored]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    _require(length <= len(content) - 8)
    header = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=_without_twins)
    data = content[8 + length :]
    metadata = header.pop("__metadata__", {})
    _require(all(isinstance(value, str) for value in metadata.values()))
    tensors, ranges = {}, []
    for name, entry in header.items():
        _require(set(entry) == {"dtype", "shape", "data_offsets"} and entry["dtype"] in BYTES)
        _require(all(type(size) is int and size >= 0 for size in [*entry["shape"], *entry["data_offsets"]]))
        start, end = entry["data_offsets"]
        number = 1
        for size in entry["shape"]:
            number *= size
        _require(end - start == number * BYTES[entry["dtype"]])
        ranges.append((start, end))
        tensors[name] = Stored(entry["dtype"], tuple(entry["shape"]), data[start:end])
    ends = [0, *(end for _, end in sorted(ranges))]
    _require([start for start, _ in sorted(ranges)] == ends[:-1] and ends[-1] == len(data))
    return tensors


def write_file(path: Path, tensors: dict[str, Stored]) -> None:
    header, at = {}, 0
    for name, tensor in tensors.items():
        end = at + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    _write(
        path,
        json.dumps({"__metadata__": {"format": "pt"}, **header}).encode(),
        b"".join(t.data for t in tensors.values()),
    )


def _write(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


# Damages: each takes the folder, one of its files, one of the file's tensors, and a number to decide the rest.
Damage = Callable[[Path, Path, str, int], None]
DAMAGES: dict[str, Damage] = {}


def damage(function: Damage) -> Damage:
    DAMAGES[function.__name__] = function
    return function


def apply(folder: Path, kind: str, shard: int, tensor: int, number: int) -> None:
    """Damages a checkpoint; what an earlier damage destroyed is left as it is."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return
    path = files[shard % len(files)]
    try:
        names = list(read_file(path))
        DAMAGES[kind](folder, path, names[tensor % len(names)], number)
    except UNREADABLE:
        return


def _choose(number: int, *choices: Any) -> Any:
    return choices[number % len(choices)]


@damage
def flip_a_byte(folder: Path, path: Path, name: str, number: int) -> None:
    content = bytearray(path.read_bytes())
    content[number * 7919 % len(content)] ^= 1 << number % 8
    path.write_bytes(content)


@damage
def flip_a_byte_of_the_header(folder: Path, path: Path, name: str, number: int) -> None:
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[number % (8 + length)] ^= 1 << number % 8
    path.write_bytes(content)


@damage
def cut_short(folder: Path, path: Path, name: str, number: int) -> None:
    content = path.read_bytes()
    path.write_bytes(
        content[: _choose(number, 0, 7, 8, 100, len(content) // 2, len(content) - 1, number % len(content))]
    )


@damage
def append(folder: Path, path: Path, name: str, number: int) -> None:
    with path.open("ab") as file:
        file.write(bytes(1 + number % 64))


@damage
def header_length(folder: Path, path: Path, name: str, number: int) -> None:
    content = path.read_bytes()
    length = _choose(number, 0, 1, 2**63, 2**64 - 1, 10**8, len(content))
    path.write_bytes(struct.pack("<Q", length) + content[8:])


@damage
def edit_header(folder: Path, path: Path, name: str, number: int) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    entry = header[name]
    changes: list[Callable[[], Any]] = [
        lambda: entry.update(dtype=_choose(number // 8, "F32", "I16", "U8", "F8_E4M3", "BOOL", "", None, "X")),
        lambda: entry.update(
            shape=_choose(number // 8, [], [1], [*entry["shape"], 1], [-1], [2**62, 4], None, "x", [1.5])
        ),
        lambda: entry.update(
            data_offsets=_choose(number // 8, [0, 0], [-1, 1], [5, 1], None, [0], [0, 2**63], ["a", 1])
        ),
        lambda: header.pop(name),
        lambda: header.update({f"{name}.other": header.pop(name)}),
        lambda: header.update({name: _choose(number // 8, None, [], "x", 1)}),
        lambda: header.update(__metadata__=_choose(number // 8, None, [], {"a": 1}, "x", {"format": "tf"}, {})),
        lambda: entry.update(shape=entry["shape"][::-1]),
    ]
    _choose(number, *changes)()
    _write(path, json.dumps(header).encode(), content[8 + length :])


@damage
def header_text(folder: Path, path: Path, name: str, number: int) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    text = content[8 : 8 + length]
    twice = text.rstrip()[:-1] + b"," + json.dumps({name: json.loads(text)[name]}).encode()[1:]
    changed = _choose(number, b"", b"{}", b"[]", b"null", b"{", b"[" * 5000, b"\xff" + text, text + b"x", twice)
    _write(path, changed, content[8 + length :])


@damage
def missing(folder: Path, path: Path, name: str, number: int) -> None:
    tensors = read_file(path)
    del tensors[name]
    write_file(path, tensors)
    _edit_index(folder, lambda places: places.pop(name))


@damage
def extra(folder: Path, path: Path, name: str, number: int) -> None:
    tensors = read_file(path)
    added = _choose(number, "extra", f"{name}_scale", name.upper(), "", "a" * 3000, f"module.{name}")
    tensors[added] = tensors[name]
    write_file(path, tensors)
    _edit_index(folder, lambda places: places.update({added: path.name}))


@damage
def retype(folder: Path, path: Path, name: str, number: int) -> None:
    """The same values as float32, or the same bytes as another type."""
    tensors = read_file(path)
    stored = tensors[name]
    if number % 3 == 0:
        tensors[name] = Stored("F32", stored.shape, _values(stored).astype("<f4").tobytes())
    else:
        tensors[name] = Stored(_choose(number, "I16", "U16", "I16", "BF16", "F16"), stored.shape, stored.data)
    write_file(path, tensors)


def _values(stored: Stored) -> np.ndarray:
    if stored.dtype == "BF16":
        return (np.frombuffer(stored.data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(stored.data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[stored.dtype])


@damage
def reshape(folder: Path, path: Path, name: str, number: int) -> None:
    tensors = read_file(path)
    stored = tensors[name]
    shape = _choose(number, (*stored.shape, 1), stored.shape[::-1], (len(stored.data) // BYTES[stored.dtype],), (0,))
    tensors[name] = Stored(stored.dtype, shape, b"" if shape == (0,) else stored.data)
    write_file(path, tensors)


@damage
def not_finite(folder: Path, path: Path, name: str, number: int) -> None:
    tensors = read_file(path)
    stored = tensors[name]
    patterns = {"F16": (0x7E00, 0x7C00, 0xFC00), "BF16": (0x7FC0, 0x7F80, 0xFF80)}[stored.dtype]
    words = np.frombuffer(stored.data, "<u2").copy()
    words[: None if number % 2 else 1] = _choose(number // 2, *patterns)
    tensors[name] = Stored(stored.dtype, stored.shape, words.tobytes())
    write_file(path, tensors)


@damage
def in_two_files(folder: Path, path: Path, name: str, number: int) -> None:
    stored = read_file(path)[name]
    if number % 2:
        stored = Stored(stored.dtype, stored.shape, bytes(len(stored.data)))
    for each in sorted(folder.glob("*.safetensors")):
        if each != path:
            write_file(each, {**read_file(each), name: stored})


@damage
def other_values(folder: Path, path: Path, name: str, number: int) -> None:
    """Nothing is wrong with these files; the model is another one."""
    tensors = read_file(path)
    stored = tensors[name]
    tensors[name] = Stored(stored.dtype, stored.shape, stored.data[::-1] if number % 2 else bytes(len(stored.data)))
    write_file(path, tensors)


def _edit_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    path = folder / INDEX
    index = json.loads(path.read_text(encoding="utf-8"))
    change(index["weight_map"])
    path.write_text(json.dumps(index), encoding="utf-8")


@damage
def index_entry(folder: Path, path: Path, name: str, number: int) -> None:
    files = sorted(each.name for each in folder.glob("*.safetensors"))
    elsewhere = folder.parent / "elsewhere.safetensors"
    elsewhere.write_bytes(path.read_bytes())
    to = _choose(
        number, *files, "absent.safetensors", "../elsewhere.safetensors", str(elsewhere), "", None, 5, [path.name]
    )
    _edit_index(folder, lambda places: places.update({name: to}))


@damage
def index_without_entry(folder: Path, path: Path, name: str, number: int) -> None:
    _edit_index(folder, lambda places: places.pop(name))


@damage
def index_with_another_entry(folder: Path, path: Path, name: str, number: int) -> None:
    _edit_index(folder, lambda places: places.update({f"{name}.other": path.name}))


@damage
def index_text(folder: Path, path: Path, name: str, number: int) -> None:
    index = folder / INDEX
    text = index.read_text(encoding="utf-8")
    places = json.loads(text)["weight_map"]
    odd = (
        "",
        "{}",
        "[]",
        "null",
        "1",
        text[: len(text) // 2],
        '{"weight_map": []}',
        '{"weight_map": null}',
        "\ufeff" + text,
    )
    whole = [*odd, json.dumps({"weight_map": list(places)}), json.dumps({"weight_map": {}}), json.dumps(places)]
    index.write_text(_choose(number, *whole), encoding="utf-8")


@damage
def no_index(folder: Path, path: Path, name: str, number: int) -> None:
    (folder / INDEX).unlink()


@damage
def no_file(folder: Path, path: Path, name: str, number: int) -> None:
    path.unlink()
    if number % 2:
        path.mkdir()


@damage
def stale_file_beside_the_index(folder: Path, path: Path, name: str, number: int) -> None:
    tensors = {name: stored for each in tuple(_files(folder)) for name, stored in read_file(each).items()}
    if number % 2:
        tensors[name] = Stored(tensors[name].dtype, tensors[name].shape, bytes(len(tensors[name].data)))
    write_file(folder / SINGLE, tensors if number % 3 else dict(list(tensors.items())[:3]))


@damage
def files_swapped(folder: Path, path: Path, name: str, number: int) -> None:
    first, *_, last = _files(folder)
    contents = first.read_bytes(), last.read_bytes()
    last.write_bytes(contents[0])
    first.write_bytes(contents[1])


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("*.safetensors")))
