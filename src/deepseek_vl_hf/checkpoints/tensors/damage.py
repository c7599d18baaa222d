"""Which file is to blame when a checkpoint does not open: the libraries below seldom say."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .source import open_tensors

# Errors that say enough by themselves, and those of the machine.
PASSED_ON = (ImportError, MemoryError, OSError, ValueError, torch.OutOfMemoryError)


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Turns whatever a checkpoint's files lead to while they are opened into an error that names them.

    Args:
        folder: the checkpoint's.

    Raises:
        OSError, ValueError: a weight file or the index is damaged, or else the folder's files do not fit together.
    """
    try:
        yield
    except PASSED_ON:
        raise
    except Exception as error:  # files may hold anything, so libraries may stumble over anything
        if "can't allocate memory" in str(error):
            raise
        with open_tensors(folder):
            pass
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{folder} cannot be opened ({type(error).__name__}: {reason}). Its files are damaged or do not belong "
            "together; download them again."
        ) from error
