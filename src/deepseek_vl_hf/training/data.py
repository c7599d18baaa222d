"""Where conversations come from, and whether all of them can be trained on, before a model is loaded for them.

name: a file, a folder that `datasets` saved, or a data set on the Hub
  --read--> rows, and an error for each that is none
  --each encoded once, as it will be for training--> lengths and a fingerprint, or one error that names all faults
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .collator import ConversationCollator
from .files import read_conversations

# Of the rows at fault that an error names; others mostly have the same cause.
SHOWN_FAULTS = 20
# Fewer rows are encoded before processes for them have begun.
ROWS_FOR_PROCESSES = 256
MOST_PROCESSES = 16
DATASETS_NEEDED = (
    "{name} is not a file, so it is taken for a data set of the library `datasets`, which is not installed here: "
    "pip install 'datasets>=4'. Or name a file of JSON lines."
)
NO_PICTURE = (
    "It has no picture, and this stage teaches only what stands between pictures and the language model. Leave the "
    "row out, or train another stage."
)

# Told how many rows are done, of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Data:
    """Conversations, read and not yet encoded.

    Attributes:
        rows: see `ConversationCollator`; each is a dict with the `place` where it stands.
        faults: an error for each row that could not be read.
    """

    rows: Sequence[dict[str, Any]]
    faults: Sequence[ValueError | TypeError] = ()


@dataclass(frozen=True)
class CheckedRow:
    """What was seen of a row; of one at fault only the reason.

    Attributes:
        length: in tokens.
        has_pictures: whether there are any.
        digest: over ids and pixels.
        fault: why it cannot be trained on; None if it can.
    """

    length: int = 0
    has_pictures: bool = False
    digest: int = 0
    fault: str | None = None


class DatasetRows(Sequence[dict[str, Any]]):
    """Rows of a data set of the library `datasets`, read when they are asked for, each with its place."""

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset, self._name = dataset, name

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        """One row."""
        return {**self._dataset[index], "place": f"{self._name}, row {index + 1}"}


def load_data(name: str, image_token: str) -> Data:
    """Reads conversations from wherever they lie; rows at fault are kept as errors.

    Args:
        name: a file of JSON lines or of a JSON array; else a folder that `datasets` saved, or the Hub's name of a data
            set, of which the split `train` is taken.
        image_token: see `load_conversations`.

    Raises:
        ImportError: `datasets` is needed and not installed.
        OSError, ValueError: there is no such data, or it holds nothing.
    """
    path = Path(name)
    if path.is_file():
        rows, faults = read_conversations(path, image_token)
        return Data(rows, faults)
    if not path.exists() and path.suffix:
        raise FileNotFoundError(f"There is no file {name}. Name a file, a folder or a data set on the Hub.")
    found = DatasetRows(_dataset_of(name), name)
    if not len(found):
        raise ValueError(f"{name} holds no rows; expected conversations.")
    return Data(found)


def _dataset_of(name: str) -> Any:
    try:
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(DATASETS_NEEDED.format(name=name)) from error
    found = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name)
    if not isinstance(found, dict):
        return found
    if "train" not in found:
        raise ValueError(f"{name} has the splits {', '.join(found)}; expected one called train. Save that one alone.")
    return found["train"]


class _Checks(Dataset[CheckedRow]):
    """Each row encoded when it is asked for, in whatever process."""

    def __init__(self, rows: Sequence[dict[str, Any]], collator: ConversationCollator, needs_pictures: bool) -> None:
        self._rows, self._collator, self._needs_pictures = rows, collator, needs_pictures

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> CheckedRow:
        row = self._rows[index]
        try:
            batch = self._collator([row])
        except (TypeError, ValueError) as error:
            return CheckedRow(fault=str(error))
        has_pictures = "pixel_values" in batch
        if self._needs_pictures and not has_pictures:
            return CheckedRow(fault=f"{row['place']}: {NO_PICTURE}")
        tensors = [batch[name] for name in ("input_ids", "labels", "pixel_values") if name in batch]
        digest = zlib.crc32(b"".join(tensor.numpy().tobytes() for tensor in tensors))
        return CheckedRow(batch["input_ids"].shape[1], has_pictures, digest)


def check_rows(
    data: Data, collator: ConversationCollator, needs_pictures: bool, progress: Progress
) -> list[CheckedRow]:
    """Encodes every row once, as it will be for training, in several processes where there are many.

    Args:
        data: what was read.
        collator: the one that training uses.
        needs_pictures: whether a row without pictures is a fault.
        progress: told how many rows are done.

    Raises:
        ValueError: rows are at fault; the error names them, up to `SHOWN_FAULTS`.
    """
    checks = _Checks(data.rows, collator, needs_pictures)
    processes = min(os.cpu_count() or 1, MOST_PROCESSES) if len(checks) >= ROWS_FOR_PROCESSES else 0
    loader: DataLoader[CheckedRow] = DataLoader(checks, batch_size=None, num_workers=processes, collate_fn=_as_it_is)
    rows = []
    for row in loader:
        rows.append(row)
        progress(len(rows), len(checks))
    faults = [*map(str, data.faults), *(row.fault for row in rows if row.fault is not None)]
    if faults:
        raise ValueError("\n".join(_told(faults)))
    return rows


def _as_it_is(row: CheckedRow) -> CheckedRow:
    return row


def _told(faults: list[str]) -> Iterator[str]:
    if len(faults) > 1:
        yield f"{len(faults)} rows cannot be trained on:"
    yield from faults[:SHOWN_FAULTS]
    if len(faults) > SHOWN_FAULTS:
        yield f"... and {len(faults) - SHOWN_FAULTS} more"


def fingerprint_of(rows: Sequence[CheckedRow]) -> str:
    """Tells these conversations, in this order, from others."""
    digests = torch.tensor([row.digest for row in rows], dtype=torch.int64)
    return hashlib.sha256(digests.numpy().tobytes()).hexdigest()[:16]
