"""Writing safetensors files tensor by tensor, each copied from where it lies."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from threading import Event, Lock

import torch
from huggingface_hub import split_state_dict_into_shards_factory

from .byte_ranges import write_all
from .plan import Piece, PlannedTensor
from .source import DTYPES, SAFETENSORS

CHUNK_BYTES = 16 * 2**20
MAX_WRITERS = 4
ALIGNMENT = 8
SPELLINGS = {dtype: spelling for spelling, dtype in DTYPES.items()}

ByteProgress = Callable[[int], None]


@dataclass(frozen=True)
class TargetTensor:
    """A planned tensor and the type it is written in; what is not floating point keeps its own."""

    planned: PlannedTensor
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return prod(self.planned.shape) * self.dtype.itemsize


def target_tensors(tensors: list[PlannedTensor], dtype: torch.dtype | None) -> list[TargetTensor]:
    """The tensors in the type `dtype`, or in their own where it is None."""
    return [
        TargetTensor(tensor, dtype if dtype is not None and tensor.dtype.is_floating_point else tensor.dtype)
        for tensor in tensors
    ]


def write_tensors(
    tensors: list[PlannedTensor],
    folder: Path,
    dtype: torch.dtype | None,
    max_shard_size: str | int,
    progress: ByteProgress,
) -> None:
    """Writes all tensors into `folder`, with an index if they fill several files.

    Args:
        tensors: what to write.
        folder: where.
        dtype: type of the floating-point tensors; None keeps their own.
        max_shard_size: largest size of a file, in bytes or as "5GB"; a larger tensor gets a file of its own.
        progress: receives the number of bytes written, again and again.

    Raises:
        ValueError: a finite value is infinite in `dtype`.
        OSError: the disk is full.
    """
    if max_shard_size in (0, "0") or (isinstance(max_shard_size, int) and max_shard_size < 0):
        raise ValueError(f"max_shard_size is {max_shard_size!r}; expected a size such as '5GB'.")
    targets = {target.planned.name: target for target in target_tensors(tensors, dtype)}
    split = split_state_dict_into_shards_factory(
        targets,
        get_storage_size=lambda target: target.num_bytes,
        get_storage_id=lambda target: None,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    files = {
        folder / file_name: [targets[name] for name in names] for file_name, names in split.filename_to_tensors.items()
    }
    _write_files(files, progress)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFETENSORS[1]).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_files(files: dict[Path, list[TargetTensor]], progress: ByteProgress) -> None:
    """Writes files side by side: copying costs processor time, and the system lets one file have one writer only."""
    lock, stopped = Lock(), Event()

    def advance(num_bytes: int) -> None:
        if stopped.is_set():
            raise InterruptedError("another file could not be written")
        with lock:
            progress(num_bytes)

    with ThreadPoolExecutor(max_workers=min(MAX_WRITERS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(_write_file, path, targets, advance) for path, targets in files.items()]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:  # also Ctrl-C: the other files end after their current chunk
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_file(path: Path, targets: list[TargetTensor], progress: ByteProgress) -> None:
    # The widest types first, as the library does: then every tensor begins at a multiple of its item's size.
    targets = sorted(targets, key=lambda target: (-target.dtype.itemsize, target.planned.name))
    with FileIO(path, "x") as file:
        write_all(file, _header(targets))
        for target in targets:
            for piece in target.planned.pieces:
                _write_piece(file, piece, target.dtype, progress)


def _write_piece(file: FileIO, piece: Piece, dtype: torch.dtype, progress: ByteProgress) -> None:
    for start, length in chunks(piece):
        if dtype == piece.tensor.dtype:
            piece.tensor.data.copy_to(file, start, length)
        else:
            values = read_values(piece, start, length, dtype)
            write_all(file, memoryview(values.view(torch.uint8).numpy()))
        progress(length)


def read_values(piece: Piece, start: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    """The numbers in a part of a piece, flat, in the type `dtype`.

    Raises:
        ValueError: a finite value is infinite in `dtype`.
    """
    values = torch.frombuffer(piece.tensor.data.read(start, length), dtype=piece.tensor.dtype)
    converted = values.to(dtype)
    if int(converted.float().isinf().sum()) > int(values.float().isinf().sum()):
        raise ValueError(
            f"The tensor {piece.tensor.name!r} has values that are too large for {dtype} (up to "
            f"{values[values.isfinite()].abs().max():.3g}). Convert to another --dtype."
        )
    return converted


def _header(targets: list[TargetTensor]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for target in targets:
        begin, end = end, end + target.num_bytes
        header[target.planned.name] = {
            "dtype": SPELLINGS[target.dtype],
            "shape": list(target.planned.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def chunks(piece: Piece) -> Iterator[tuple[int, int]]:
    """Cuts a piece into parts of at most `CHUNK_BYTES`, as (start in its data, length)."""
    for offset in range(0, piece.num_bytes, CHUNK_BYTES):
        yield piece.tensor.start + piece.start + offset, min(CHUNK_BYTES, piece.num_bytes - offset)
