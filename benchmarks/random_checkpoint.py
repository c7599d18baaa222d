"""Checkpoints of published sizes with random weights, in the original layout."""

import json
import re
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
    "deepseek-vl2-small": Published("deepseek-vl2-small", "deepseek-vl2-small", "vl2_mla", torch.bfloat16),
    "deepseek-vl2": Published("deepseek-vl2", "deepseek-vl2", "vl2_sigmoid", torch.bfloat16),
}
LANGUAGE_LAYER = re.compile(r"language(?:_model)?\.model\.layers\.(\d+)\.")


def write_checkpoint(folder: Path, size: str, layers: int | None = None) -> int:
    """Writes the original layout with random weights; returns the size of its tensors in bytes.

    Args:
        folder: where it goes; must not exist.
        size: one of PUBLISHED.
        layers: how many of the language model's layers; None for all.
    """
    published = PUBLISHED[size]
    folder.mkdir()
    for path in (FIXTURES / "configs" / published.configs).glob("*config.json"):
        shutil.copy(path, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(FIXTURES / published.family / "checkpoint" / name, folder)
    content = json.loads((FIXTURES / "weights" / f"{published.weights}.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    weight_map, total = {}, 0
    shapes = content["shapes"]
    if layers is not None:
        shapes = {name: shape for name, shape in shapes.items() if layer_number(name) < layers}
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["language_config"]["num_hidden_layers"] = layers
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shards = list(split_names(shapes, published.dtype.itemsize))
    for number, part in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: torch.empty(shape, dtype=published.dtype).normal_(std=0.02) for name, shape in part.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total


def layer_number(name: str) -> int:
    """Which layer of the language model a tensor belongs to; -1 for others."""
    found = LANGUAGE_LAYER.match(name)
    return int(found[1]) if found else -1


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
