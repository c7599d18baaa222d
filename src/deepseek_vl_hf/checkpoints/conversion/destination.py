"""The folder that a conversion writes: complete or absent, whatever happens on the way."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# Left free on the disk beside the tensors, for the small files.
SPARE_BYTES = 64 * 2**20
# How the system says so: of the disk, of a user's share of it, and of the size of one file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    """Raises FileExistsError or ValueError where writing `destination` could harm something.

    Args:
        source: the folder that is read.
        destination: the folder to write, resolved.
        overwrite: whether a checkpoint that is there may be replaced.
    """
    read = source.resolve()
    if destination == read or destination.is_relative_to(read) or read.is_relative_to(destination):
        raise ValueError(
            f"{destination} and the source {source} are the same folder or one lies inside the other; the source is "
            "never written to. Name a folder elsewhere."
        )
    linked = [path for path in source.iterdir() if path.resolve().is_relative_to(destination)]
    if linked:
        raise ValueError(f"The source's {linked[0].name} is a link into {destination}. Name a folder elsewhere.")
    if destination == Path.cwd() or destination.is_mount():
        raise ValueError(f"{destination} cannot be replaced as a whole. Name a new folder inside it.")
    _check_content(destination, overwrite)


def _check_content(destination: Path, overwrite: bool) -> None:
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(
            f"{destination} exists and is not empty. Name a new folder, remove this one first, or pass --overwrite "
            "(overwrite=True) to replace the checkpoint in it."
        )
    if not (destination / "config.json").is_file() or any(path.is_dir() for path in destination.iterdir()):
        raise FileExistsError(
            f"{destination} holds no config.json, or holds folders, so it is more than a checkpoint and is not "
            "replaced. Remove it yourself, or name another folder."
        )


def check_space(destination: Path, num_bytes: int) -> None:
    """Raises OSError if the disk has less room than the tensors need."""
    folder = next(folder for folder in destination.parents if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if free < num_bytes + SPARE_BYTES:
        raise OSError(
            f"The result takes {num_bytes / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free in {folder}. Free some "
            "space, or name a folder on another disk."
        )


@contextmanager
def new_folder(destination: Path, overwrite: bool, report: Callable[[str], None]) -> Iterator[Path]:
    """Gives a folder beside `destination` that takes its place when the `with` block ends without an error.

    Args:
        destination: the folder to write, resolved.
        overwrite: whether a checkpoint that is there may be replaced.
        report: told of what earlier conversions left.

    Raises:
        FileExistsError: meanwhile something else was put at `destination`.
        OSError: the disk is full, or something else keeps files from being written.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    for leftover in sorted(destination.parent.glob(f".{destination.name}.*.partial")):
        report(f"Found {leftover}: a conversion still runs, or one was killed and left it; then remove it")
    for leftover in sorted(destination.parent.glob(f".{destination.name}.*.replaced")):
        report(f"Found {leftover}: a checkpoint that was being replaced when the conversion was killed")
    with tempfile.TemporaryDirectory(
        prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent, ignore_cleanup_errors=True
    ) as temporary:
        # A folder of its own inside: the temporary one is private, the result has ordinary permissions.
        target = Path(temporary) / "checkpoint"
        target.mkdir()
        with _naming_full_disk(destination):
            yield target
        _check_content(destination, overwrite)
        _put_in_place(target, destination, Path(temporary).with_suffix(".replaced"))


@contextmanager
def _naming_full_disk(destination: Path) -> Iterator[None]:
    """Says where there is no room; the system's error names no file, and safetensors hides it in another kind."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if number not in NO_ROOM:
            raise
        reason = f"{destination} was not written: {os.strerror(number)}. Free some space, or name a folder elsewhere."
        raise OSError(number, reason) from error


def _put_in_place(target: Path, destination: Path, replaced: Path) -> None:
    """Moves the result to the destination; what was there stays beside it until that is done."""
    if not destination.exists() or not any(destination.iterdir()):
        if destination.exists():
            destination.rmdir()  # fails, and harms nothing, if something was put there just now
        target.rename(destination)
        return
    try:
        destination.rename(replaced)
        target.rename(destination)
    except BaseException:  # also Ctrl-C between the two
        if replaced.exists() and not destination.exists():
            replaced.rename(destination)
        raise
    shutil.rmtree(replaced)
