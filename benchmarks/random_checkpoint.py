"""Checkpoints of published sizes with random weights, in the original layout."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Published:
    """Where the names, shapes and small files of a published size are.

    Attributes:
        weights: of names and shapes, a file.
        configs: of config and processor files, a folder.
        family: whose tokenizer is taken: the published one is not at hand, and a smaller vocabulary is allowed.
        dtype: of the weights.
    """

    weights: str
    configs: str
    family: str
    dtype: torch.dtype


PUBLISHED = {
    "deepseek-vl-7b": Published("deepseek-vl-7b", "deepseek-vl-7b-chat", "vl_hybrid", torch.float16),
    "deepseek-vl2-tiny": Published("deepseek-vl2-tiny", "deepseek-vl2-tiny", "vl2_mha", torch.bfloat16),
}


def write_checkpoint(folder: Path, size: str) -> int:
    """Writes the original layout with random weights; returns the size of its tensors in bytes."""
    published = PUBLISHED[size]
    folder.mkdir()
    for path in (FIXTURES / "configs" / published.configs).glob("*config.json"):
        shutil.copy(path, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(FIXTURES / published.family / "checkpoint" / name, folder)
    content = json.loads((FIXTURES / "weights" / f"{published.weights}.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    weight_map, total = {}, 0
    shards = list(split_names(content["shapes"], published.dtype.itemsize))
    for number, shapes in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: torch.empty(shape, dtype=published.dtype).normal_(std=0.02) for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total


def split_names(shapes: dict[str, list[int]], itemsize: int) -> Iterator[dict[str, list[int]]]:
    """Names and shapes, as many at a time as fit into a file."""
    part: dict[str, list[int]] = {}
    size = 0
    for name, shape in shapes.items():
        num_bytes = itemsize * torch.Size(shape).numel()
        if size + num_bytes > SHARD_BYTES:
            yield part
            part, size = {}, 0
        part[name] = shape
        size += num_bytes
    yield part
