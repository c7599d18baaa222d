"""The tensors of a checkpoint folder, found without loading them."""

import json
import zipfile
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import torch

from ..layouts.files import DuplicateNameError, read_json, without_duplicates
from ..layouts.rules import Shape
from .byte_ranges import ByteSource, FileBytes, TensorBytes

# How safetensors spells the types that checkpoints have.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit

# Weight files that a folder may hold, the preferred format first: one file alone, or an index of several.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: what it is, and where its bytes lie.

    Attributes:
        name: its name in the file.
        dtype: its type.
        shape: its shape.
        data: what holds the bytes.
        start: where they begin there.
    """

    name: str
    dtype: torch.dtype
    shape: Shape
    data: ByteSource
    start: int = 0

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoredEntry:
    """What a safetensors header says of a tensor.

    Attributes:
        name: its name in the file.
        dtype: its type, as safetensors spells it; libraries that quantize use more types than `DTYPES`.
        shape: its shape.
        start: where its bytes begin in the file.
        end: where they end.
    """

    name: str
    dtype: str
    shape: Shape
    start: int
    end: int


@contextmanager
def open_tensors(folder: Path) -> Iterator[dict[str, StoredTensor]]:
    """Gives every tensor of the folder's weight files by name; the files stay open inside the `with` block.

    Raises:
        FileNotFoundError: there are no weights, or the index names a file that is absent.
        ValueError: a file is damaged, holds something else than tensors, or is not what the index says.
    """
    with ExitStack() as stack:
        tensors: dict[str, StoredTensor] = {}
        index_name, shards = find_shards(folder)
        for shard, expected in shards.items():
            found = _open_shard(folder / shard, stack)
            check_index(folder / shard, index_name, found.keys(), expected)
            tensors.update(found)
        yield tensors


def check_index(path: Path, index_name: str, found: Set[str], expected: set[str] | None) -> None:
    """Raises ValueError unless a file holds the tensors that the index expects in it, if there is an index."""
    if expected is not None and expected != found:
        wrong = sorted(expected ^ found)
        raise ValueError(
            f"{path} and {index_name} disagree on {len(wrong)} tensors, such as {wrong[0]!r}. The files belong to "
            "different checkpoints, or a tensor is stored twice; download them again."
        )


def find_shards(
    folder: Path, formats: Sequence[tuple[str, str]] = (SAFETENSORS, PICKLES)
) -> tuple[str, dict[str, set[str] | None]]:
    """The index's name, and the weight files with the tensors that it expects in each (None without an index).

    Args:
        folder: where they lie.
        formats: names of a single file and of an index, the preferred format first.

    Raises:
        FileNotFoundError: there are no weights, or the index names a file that is absent.
        ValueError: the index names a file outside the folder, or there are both an index and one file of all tensors.
    """
    for single, index_name in formats:
        if (folder / index_name).is_file() and (folder / single).is_file():
            raise ValueError(
                f"{folder} holds both {single} and {index_name}, and they may be of different checkpoints. Remove the "
                "one that is out of date."
            )
        if (folder / index_name).is_file():
            return index_name, _indexed_shards(folder, index_name)
        if (folder / single).is_file():
            return index_name, {single: None}
    names = ", ".join(name for pair in formats for name in pair)
    raise FileNotFoundError(f"{folder} holds no weights. Expected one of {names}.")


def _indexed_shards(folder: Path, index_name: str) -> dict[str, set[str] | None]:
    shards = tensors_by_shard(index_name, read_json(folder / index_name).get("weight_map"))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise FileNotFoundError(f"{index_name} names {', '.join(missing)}, absent from {folder}. Download them again.")
    return dict(shards)


def tensors_by_shard(index_name: str, weight_map: Any) -> dict[str, set[str]]:
    """The tensors that an index expects in each file.

    Raises:
        ValueError: it says nothing, or names a file outside the folder.
    """
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index_name} has no weight_map. Download it again.")
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard:
            raise ValueError(f"{index_name} places {tensor!r} in {shard!r}; expected a file name without a path.")
        shards.setdefault(shard, set()).add(tensor)
    return shards


def _open_shard(path: Path, stack: ExitStack) -> dict[str, StoredTensor]:
    if path.suffix == ".safetensors":
        return _open_safetensors(path, stack.enter_context(FileIO(path)))
    return _open_pickle(path)


def _open_safetensors(path: Path, file: FileIO) -> dict[str, StoredTensor]:
    """The tensors of one file, after its header was checked against the file's size."""
    data = FileBytes(path, file)
    stored = _read_header(data, path.stat().st_size)
    try:
        return {name: _as_tensor(entry, data) for name, entry in stored.items()}
    except ValueError as error:
        raise _unreadable(path, error) from error


def read_header(path: Path) -> dict[str, StoredEntry]:
    """What the header of a safetensors file says, after it was checked against the file's size.

    Raises:
        ValueError: the file is damaged.
    """
    with FileIO(path) as file:
        return _read_header(FileBytes(path, file), path.stat().st_size)


def _read_header(data: FileBytes, size: int) -> dict[str, StoredEntry]:
    try:
        header_bytes = int.from_bytes(data.read(0, 8), "little")
        if header_bytes > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError("its header reaches beyond the file")
        header = json.loads(data.read(8, header_bytes), object_pairs_hook=without_duplicates)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its __metadata__ is not a table of texts")
        entries = {name: _read_entry(name, entry, 8 + header_bytes) for name, entry in header.items()}
        # As the format demands: no holes, no overlaps, nothing after the last tensor.
        end = 8 + header_bytes
        for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
            if entry.start != end:
                raise ValueError(f"the tensor {entry.name!r} begins at byte {entry.start}, expected {end}")
            end = entry.end
        if end != size:
            raise ValueError(f"it has {size} bytes, but its header describes {end}")
    except DuplicateNameError as error:
        raise ValueError(f"{data.path} holds the tensor {error} twice. Download the file again.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unreadable(data.path, error) from error
    return entries


def _unreadable(path: Path, reason: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as safetensors ({reason}). Download the file again.")


def _read_entry(name: str, entry: dict[str, Any], data_start: int) -> StoredEntry:
    begin, end = entry["data_offsets"]
    if not all(isinstance(number, int) and number >= 0 for number in (begin, end, *entry["shape"])):
        raise ValueError(f"the tensor {name!r} has a size or a place that is not a whole number")
    if end < begin or not isinstance(entry["dtype"], str):
        raise ValueError(f"the tensor {name!r} ends before it begins, or has no type")
    stored = StoredEntry(name, entry["dtype"], tuple(entry["shape"]), data_start + begin, data_start + end)
    dtype = DTYPES.get(stored.dtype)
    if dtype is not None and end - begin != prod(stored.shape) * dtype.itemsize:
        raise ValueError(
            f"the tensor {name!r} has {end - begin} bytes; its shape needs {prod(stored.shape) * dtype.itemsize}"
        )
    return stored


def _as_tensor(entry: StoredEntry, data: FileBytes) -> StoredTensor:
    if entry.dtype not in DTYPES:
        raise ValueError(f"the tensor {entry.name!r} has the type {entry.dtype!r}; expected one of {', '.join(DTYPES)}")
    return StoredTensor(entry.name, DTYPES[entry.dtype], entry.shape, data, entry.start)


def _open_pickle(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file that torch.save wrote; only tensors are unpickled, code never runs."""
    try:
        mapped = zipfile.is_zipfile(path)  # the format since torch 1.6, which need not be loaded as a whole
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as tensors and nothing else ({reason}). Such a file may hold code that would run "
            "when it is loaded; get the checkpoint as safetensors from its author."
        ) from error
    if not isinstance(content, dict) or not all(_is_plain_tensor(*item) for item in content.items()):
        raise ValueError(
            f"{path} holds something else than named, dense tensors of real numbers. Expected a state dict."
        )
    return {
        name: StoredTensor(name, tensor.dtype, tuple(tensor.shape), TensorBytes(tensor.detach()))
        for name, tensor in content.items()
    }


def _is_plain_tensor(name: Any, value: Any) -> bool:
    is_dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return isinstance(name, str) and is_dense and value.dtype in DTYPES.values()
