"""A look at weight files before transformers reads them: headers and the index alone, never a tensor.

transformers takes the last of two tensors of one name, follows an index out of its folder, casts integers to floats,
and prefers one file to an index whichever is newer. What the conversion refuses is refused here, by the same functions.
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..layouts.files import read_json
from ..layouts.generation_file import read_generation_file
from ..tensors.source import (
    DTYPES,
    PICKLES,
    SAFETENSORS,
    check_index,
    find_shards,
    read_header,
    tensors_by_shard,
)

# Buffers that old files hold as integers, and that models compute today.
COUNTED = re.compile(r"(^|\.)position_ids$")


def check_folder(name_or_path: Any, arguments: Mapping[str, Any]) -> None:
    """Looks at the weight files of a folder; Hub repositories are looked at when their files have arrived.

    Args:
        name_or_path: what `from_pretrained` got.
        arguments: its other arguments.

    Raises:
        FileNotFoundError: the index names a file that is absent.
        ValueError: a file is damaged, the index leaves the folder, index and files disagree, or there are both an index
            and one file of all tensors; or generation_config.json holds a value of another
            kind.
    """
    elsewhere = ("state_dict", "gguf_file", "variant")
    if name_or_path is None or any(arguments.get(name) is not None for name in elsewhere):
        return
    folder = Path(name_or_path) / (arguments.get("subfolder") or "")
    read_generation_file(folder)
    is_safe = arguments.get("use_safetensors")
    formats = [SAFETENSORS] * (is_safe is not False) + [PICKLES] * (not is_safe)
    if not any((folder / name).is_file() for pair in formats for name in pair):
        return  # adapters alone, or no weights at all, which transformers says
    index_name, shards = find_shards(folder, formats)
    if (folder / index_name).is_file() and not isinstance(read_json(folder / index_name).get("metadata"), dict):
        raise ValueError(
            f"{index_name} has no metadata, without which transformers does not read it. Download it again."
        )
    for shard, expected in shards.items():
        if shard.endswith(".safetensors"):
            check_index(folder / shard, index_name, read_header(folder / shard).keys(), expected)


def check_files(
    files: Sequence[str], weight_map: Mapping[str, Any] | None, ignored: frozenset[str], quantized: bool
) -> None:
    """Looks at the files that are about to be read, wherever they came from.

    Args:
        files: their paths.
        weight_map: the index's, from a tensor's name to its file's; None without an index.
        ignored: regular expressions of the names that are left aside on purpose.
        quantized: whether the files hold quantized weights, which may be integers.

    Raises:
        ValueError: a file is damaged, index and files disagree, a tensor is stored twice, or weights are no
            floating-point numbers.
    """
    expected = tensors_by_shard("The index", weight_map) if weight_map is not None else None
    seen: dict[str, Path] = {}
    for path in map(Path, files):
        found = _types(path)
        if found is None:
            continue
        if expected is not None:
            check_index(path, "the index", found.keys(), expected.get(path.name, set()))
        for name, dtype in found.items():
            if name in seen:
                raise ValueError(
                    f"{seen[name]} and {path} both hold the tensor {name!r}. There is no telling which one is right; "
                    "download the checkpoint again."
                )
            seen[name] = path
            if not quantized and not _is_floating(dtype) and not _is_left_aside(name, ignored):
                raise ValueError(
                    f"{path} holds {name!r} as {dtype}; expected floating-point weights. Quantized ones are read with "
                    "the quantization_config that config.json came with: it has lost it, or None was passed for it. "
                    "Otherwise the file is damaged; download it again."
                )


def _types(path: Path) -> dict[str, Any] | None:
    """The type of each tensor of a file; None where only reading all of them would tell."""
    if path.suffix == ".safetensors":
        return {name: DTYPES.get(entry.dtype, entry.dtype) for name, entry in read_header(path).items()}
    if path.suffix != ".bin" or not zipfile.is_zipfile(path):
        return None
    content = torch.load(path, map_location="meta", weights_only=True)
    return {name: value.dtype for name, value in content.items() if isinstance(value, torch.Tensor)}


def _is_floating(dtype: Any) -> bool:
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def _is_left_aside(name: str, ignored: frozenset[str]) -> bool:
    return COUNTED.search(name) is not None or any(re.search(pattern, name) for pattern in ignored)
