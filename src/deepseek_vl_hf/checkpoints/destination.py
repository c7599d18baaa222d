"""The folder that a conversion writes: complete or absent, whatever happens on the way."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Left free on the disk beside the tensors, for the small files.
SPARE_BYTES = 64 * 2**20


def check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    """Raises FileExistsError or ValueError where writing `destination` could harm something.

    Args:
        source: the folder that is read.
        destination: the folder to write.
        overwrite: whether a checkpoint that is there may be replaced.
    """
    there, read = destination.resolve(), source.resolve()
    if there == read or there.is_relative_to(read) or read.is_relative_to(there):
        raise ValueError(
            f"{destination} and the source {source} are the same folder or one lies inside the other; the source is "
            "never written to. Name a folder elsewhere."
        )
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(
            f"{destination} exists and is not empty. Name a new folder, remove this one first, or pass --overwrite "
            "(overwrite=True) to replace the checkpoint in it."
        )
    if not (destination / "config.json").is_file():
        raise FileExistsError(
            f"{destination} holds no config.json, so it does not look like a checkpoint and is not replaced. Remove it "
            "yourself, or name another folder."
        )


def check_space(destination: Path, num_bytes: int) -> None:
    """Raises OSError if the disk has less room than the tensors need."""
    free = shutil.disk_usage(_nearest_folder(destination)).free
    if free < num_bytes + SPARE_BYTES:
        raise OSError(
            f"The result takes {num_bytes / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free at {destination}. Free "
            "some space, or name a folder on another disk."
        )


@contextmanager
def new_folder(destination: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """Gives a folder beside `destination` that takes its place when the `with` block ends without an error."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    for leftover in sorted(destination.parent.glob(f".{destination.name}.*.partial")):
        report(f"Found {leftover}: a conversion still runs, or one was killed and left it; then remove it")
    with tempfile.TemporaryDirectory(
        prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent, ignore_cleanup_errors=True
    ) as temporary:
        # A folder of its own inside: the temporary one is private, the result has ordinary permissions.
        target = Path(temporary) / "checkpoint"
        target.mkdir()
        yield target
        _put_in_place(target, destination, Path(temporary) / "replaced")


def _put_in_place(target: Path, destination: Path, replaced: Path) -> None:
    """Two renames; what was there is removed with the temporary folder."""
    if not destination.exists():
        target.rename(destination)
        return
    destination.rename(replaced)
    try:
        target.rename(destination)
    except OSError:
        replaced.rename(destination)
        raise


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in (path, *path.resolve().parents) if folder.is_dir())
