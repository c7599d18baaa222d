"""Changing and reading checkpoint folders."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def edit(path: Path, change) -> None:
    """Changes the content of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_shard(path: Path, change) -> None:
    """Changes the tensors of a file."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def tensors_of(folder: Path):
    """All tensors of a folder's safetensors files."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def remove_weights(folder: Path) -> None:
    """Removes weight files and index."""
    for name in (*SHARDS, INDEX):
        (folder / name).unlink()


def change_all(folder: Path, change) -> None:
    """Changes every tensor, and writes them into one file without an index."""
    tensors = {name: change(name, tensor) for name, tensor in tensors_of(folder).items()}
    remove_weights(folder)
    save_file(tensors, folder / "model.safetensors")


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
