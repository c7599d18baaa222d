"""Where the bytes of a tensor lie, read in parts so that they never are in memory all at once."""

from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Protocol

import torch


class ByteSource(Protocol):
    """Bytes that can be read in parts."""

    def read(self, start: int, length: int) -> bytearray:
        """`length` bytes from `start`."""


@dataclass(frozen=True)
class FileBytes:
    """The bytes of an open file. They are read by seeking: mapped files would count as memory of this process."""

    path: Path
    file: FileIO
    lock: Lock = field(default_factory=Lock, compare=False)

    def read(self, start: int, length: int) -> bytearray:
        """See `ByteSource`.

        Raises:
            ValueError: the file ends before.
        """
        buffer = bytearray(length)
        view, filled = memoryview(buffer), 0
        with self.lock:  # of place and reading together
            self.file.seek(start)
            while filled < length:
                count = self.file.readinto(view[filled:])
                if not count:
                    raise ValueError(f"{self.path} ended while it was read. Download the file again.")
                filled += count
        return buffer


@dataclass(frozen=True)
class TensorBytes:
    """The bytes of a tensor that is in memory or mapped into it."""

    tensor: torch.Tensor

    def read(self, start: int, length: int) -> bytearray:
        """See `ByteSource`."""
        flat = self.tensor.contiguous().reshape(-1).view(torch.uint8)
        return bytearray(flat[start : start + length].numpy())


def write_all(target: FileIO, data: bytes | bytearray | memoryview) -> None:
    """Writes all of `data`; a single write to an unbuffered file may take less."""
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]
