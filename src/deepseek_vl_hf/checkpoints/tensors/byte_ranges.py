"""Where the bytes of a tensor lie, and how they get into another file without passing through memory all at once."""

import errno
import os
import sys
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import torch

# What copying inside the kernel is refused with where a system or file system cannot do it.
_NOT_IN_KERNEL = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


class ByteSource(Protocol):
    """Bytes that can be read in parts."""

    def read(self, start: int, length: int) -> bytearray:
        """`length` bytes from `start`."""

    def copy_to(self, target: FileIO, start: int, length: int) -> None:
        """Writes `length` bytes from `start` where `target` stands."""


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

    def copy_to(self, target: FileIO, start: int, length: int) -> None:
        """See `ByteSource`; inside the kernel where the system can."""
        copied = self._copy_in_kernel(target, start, length)
        if copied < length:
            write_all(target, self.read(start + copied, length - copied))

    def _copy_in_kernel(self, target: FileIO, start: int, length: int) -> int:
        """Copies what it can and gives how much that was."""
        if sys.platform != "linux":  # elsewhere sendfile is for sockets only
            return 0
        copied = 0
        while copied < length:
            try:
                count = os.sendfile(target.fileno(), self.file.fileno(), start + copied, length - copied)
            except OSError as error:
                if error.errno not in _NOT_IN_KERNEL:
                    raise
                break
            if count == 0:
                break
            copied += count
        return copied


@dataclass(frozen=True)
class TensorBytes:
    """The bytes of a tensor that is in memory or mapped into it."""

    tensor: torch.Tensor

    def _part(self, start: int, length: int) -> Any:
        return self.tensor.contiguous().reshape(-1).view(torch.uint8)[start : start + length].numpy()

    def read(self, start: int, length: int) -> bytearray:
        """See `ByteSource`."""
        return bytearray(self._part(start, length))

    def copy_to(self, target: FileIO, start: int, length: int) -> None:
        """See `ByteSource`."""
        write_all(target, memoryview(self._part(start, length)))


def write_all(target: FileIO, data: bytes | bytearray | memoryview) -> None:
    """Writes all of `data`; a single write to an unbuffered file may take less."""
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]
