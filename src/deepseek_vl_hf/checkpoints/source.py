"""Reading an original checkpoint folder: its JSON files and, lazily, its tensors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

INDEX_NAME = "model.safetensors.index.json"
SINGLE_FILE_NAME = "model.safetensors"


def read_json(folder: Path, name: str, *, required: bool = True) -> dict[str, Any]:
    """The JSON object in `folder/name`; an empty one if the file is absent and not required.

    Raises:
        FileNotFoundError: a required file is absent.
        ValueError: the file holds no JSON object.
    """
    path = folder / name
    if not path.is_file():
        if required:
            raise FileNotFoundError(f"{folder} holds no {name}. Expected the folder of an original checkpoint.")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Download the file again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; expected an object.")
    return content


def shard_names(folder: Path) -> dict[str, list[str] | None]:
    """The weight files of the folder, each with the tensors that the index expects in it (None without an index).

    Raises:
        FileNotFoundError: there are no safetensors weights, or the index names a file that is absent.
        ValueError: the index names a file outside the folder.
    """
    if not (folder / INDEX_NAME).is_file():
        if not (folder / SINGLE_FILE_NAME).is_file():
            raise FileNotFoundError(
                f"{folder} holds neither {SINGLE_FILE_NAME} nor {INDEX_NAME}. Expected weights in safetensors files."
            )
        return {SINGLE_FILE_NAME: None}
    shards: dict[str, list[str] | None] = {}
    weight_map = read_json(folder, INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{INDEX_NAME} has no weight_map. Download it again.")
    for tensor, shard in weight_map.items():
        if Path(shard).name != shard:
            raise ValueError(f"{INDEX_NAME} places {tensor!r} in {shard!r}; expected a file name without a path.")
        expected = shards.setdefault(shard, [])
        assert expected is not None
        expected.append(tensor)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise FileNotFoundError(f"{INDEX_NAME} names {', '.join(missing)}, absent from {folder}. Download them again.")
    return shards


def iterate_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, tensor) of every tensor in the folder's safetensors files, one in memory at a time.

    Raises:
        FileNotFoundError, ValueError: a file is absent or damaged, or does not hold what the index says.
    """
    for shard, expected in shard_names(folder).items():
        path = folder / shard
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                if expected is not None and set(expected) != set(names):
                    wrong = sorted(set(expected) ^ set(names))
                    raise ValueError(
                        f"{path} and {INDEX_NAME} disagree on {len(wrong)} tensors, such as {wrong[0]!r}. The files "
                        "belong to different checkpoints; download them again."
                    )
                for name in names:
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read as safetensors ({error}). Download the file again.") from error
