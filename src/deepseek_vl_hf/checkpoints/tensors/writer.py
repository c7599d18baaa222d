"""Writing safetensors files tensor by tensor, each copied from where it lies."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy
import torch
from huggingface_hub import split_state_dict_into_shards_factory

from .byte_ranges import write_all
from .plan import Piece, PlannedTensor
from .source import DTYPES, SAFETENSORS, StoredTensor

CHUNK_BYTES = 2**20  # stays in a processor's cache from reading to writing
MAX_WRITERS = 4
ALIGNMENT = 8
SPELLINGS = {dtype: spelling for spelling, dtype in DTYPES.items()}

# By type: its bits as whole numbers, all but the sign, and the lowest of them that is no finite number.
EXPONENTS: dict[torch.dtype, tuple[Any, Any, Any]] = {
    torch.float64: (numpy.uint64, numpy.uint64(2**63 - 1), numpy.uint64(0x7FF << 52)),
    torch.float32: (numpy.uint32, numpy.uint32(2**31 - 1), numpy.uint32(0xFF << 23)),
    torch.bfloat16: (numpy.uint16, numpy.uint16(2**15 - 1), numpy.uint16(0xFF << 7)),
    torch.float16: (numpy.uint16, numpy.uint16(2**15 - 1), numpy.uint16(0x1F << 10)),
    torch.float8_e5m2: (numpy.uint8, numpy.uint8(127), numpy.uint8(0x1F << 2)),
    torch.float8_e4m3fn: (numpy.uint8, numpy.uint8(127), numpy.uint8(127)),  # has NaN alone
}

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
) -> dict[str, int]:
    """Writes all tensors into `folder`, with an index if they fill several files.

    Args:
        tensors: what to write.
        folder: where.
        dtype: type of the floating-point tensors; None keeps their own.
        max_shard_size: largest size of a file, in bytes or as "5GB"; a larger tensor gets a file of its own.
        progress: receives the number of bytes written, again and again.

    Returns:
        How many values of which source tensors are NaN or infinite.

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
    not_finite = _write_files(files, progress)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFETENSORS[1]).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return dict(sorted(not_finite.items()))


def _write_files(files: dict[Path, list[TargetTensor]], progress: ByteProgress) -> Counter[str]:
    """Writes files side by side: copying costs processor time, and the system lets one file have one writer only."""
    lock, stopped = Lock(), Event()

    def advance(num_bytes: int) -> None:
        if stopped.is_set():
            raise InterruptedError("another file could not be written")
        with lock:
            progress(num_bytes)

    with ThreadPoolExecutor(max_workers=min(MAX_WRITERS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(_write_file, path, targets, advance) for path, targets in files.items()]
        not_finite: Counter[str] = Counter()
        try:
            for future in as_completed(futures):
                not_finite += future.result()
        except BaseException:  # also Ctrl-C: the other files end after their current chunk
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return not_finite


def _write_file(path: Path, targets: list[TargetTensor], progress: ByteProgress) -> Counter[str]:
    not_finite: Counter[str] = Counter()
    # The widest types first, as the library does: then every tensor begins at a multiple of its item's size.
    targets = sorted(targets, key=lambda target: (-target.dtype.itemsize, target.planned.name))
    with FileIO(path, "x") as file:
        write_all(file, _header(targets))
        for target in targets:
            for piece in target.planned.pieces:
                not_finite[piece.tensor.name] += _write_piece(file, piece, target.dtype, progress)
    return +not_finite  # without the zeros


def _write_piece(file: FileIO, piece: Piece, dtype: torch.dtype, progress: ByteProgress) -> int:
    """Writes a piece and says how many of its values are NaN or infinite."""
    count = 0
    for start, length in chunks(piece):
        values = read_values(piece, start, length)
        count += count_not_finite(values)
        write_all(file, memoryview(convert_values(piece, values, dtype).view(torch.uint8).numpy()))
        progress(length)
    return count


def read_values(piece: Piece, start: int, length: int) -> torch.Tensor:
    """The numbers in a part of a piece, flat."""
    return torch.frombuffer(piece.tensor.data.read(start, length), dtype=piece.tensor.dtype)


def convert_values(piece: Piece, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A part of a piece in another type.

    Raises:
        ValueError: a finite value is infinite in `dtype`.
    """
    converted = values.to(dtype)
    if converted is not values and count_not_finite(converted) > count_not_finite(values):
        raise ValueError(
            f"The tensor {piece.tensor.name!r} has values that are too large for {dtype} (up to "
            f"{values[values.isfinite()].abs().max():.3g}). Convert to another --dtype."
        )
    return converted


def count_not_finite(values: torch.Tensor) -> int:
    """How many of a flat tensor's numbers are NaN or infinite: those whose exponent has all bits set.

    numpy looks at the bits, because files are written by threads, and torch would spread each look over all cores.
    """
    if values.dtype not in EXPONENTS:
        return 0
    kind, magnitude, lowest = EXPONENTS[values.dtype]
    bits = values.view(torch.uint8).numpy().view(kind) & magnitude
    return int(numpy.count_nonzero(bits >= lowest)) if bits.size and bits.max() >= lowest else 0


def not_finite_of(tensors: Iterable[StoredTensor]) -> dict[str, int]:
    """How many values of which tensors are NaN or infinite; they are read once, piece by piece."""
    found: dict[str, int] = {}
    for tensor in tensors:
        piece = Piece(tensor, 0, tensor.num_bytes)
        found[tensor.name] = sum(count_not_finite(read_values(piece, *part)) for part in chunks(piece))
    return {name: count for name, count in sorted(found.items()) if count}


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
