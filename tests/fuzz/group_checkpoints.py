"""Damaged weights: files, headers, tensors, indexes; loaded as they are, and converted."""

import shutil
from pathlib import Path

import hypothesis.strategies as st
import torch

import weights
from deepseek_vl_hf.checkpoints import convert_checkpoint
from verdict import NotRefusedError, OtherValueError, Recipe
from world import (
    FAMILIES,
    LAYOUTS,
    Checkpoint,
    are_numbers,
    checkpoint,
    copy_of,
    generate,
    load,
    other,
    same_logits,
    scratch,
)


def recipes() -> st.SearchStrategy[Recipe]:
    number = st.integers(0, 2**20)
    damage = st.fixed_dictionaries(
        {
            "kind": st.sampled_from(sorted(weights.DAMAGES)),
            "shard": st.integers(0, 3),
            "tensor": number,
            "number": number,
        }
    )
    return st.fixed_dictionaries(
        {
            "family": st.sampled_from(FAMILIES),
            "layout": st.sampled_from(LAYOUTS),
            "way": st.sampled_from(("load", "convert")),
            "damages": st.lists(damage, min_size=1, max_size=2),
        }
    )


def check(recipe: Recipe) -> None:
    undamaged = checkpoint(recipe["family"], recipe["layout"])
    with copy_of(undamaged.folder) as folder:
        for damage in recipe["damages"]:
            weights.apply(folder, **damage)
        stored = weights.well_formed(folder)
        if stored is not None and _outline(stored) != _outline(_undamaged_tensors(undamaged)):
            stored = None  # adds up, but as another model
        if recipe["way"] == "load":
            _check_loading(undamaged, folder, stored)
        else:
            _check_conversion(undamaged, folder, stored)


def _undamaged_tensors(undamaged: Checkpoint) -> dict[str, weights.Stored]:
    stored = weights.well_formed(undamaged.folder)
    assert stored is not None
    return stored


def _outline(stored: dict[str, weights.Stored]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in stored.items()}


def _check_loading(undamaged: Checkpoint, folder: Path, stored: dict[str, weights.Stored] | None) -> None:
    """A model of files that add up has their values; one of others is refused, unless it lacks nothing."""
    inputs = undamaged.answer.inputs
    model = load(folder)
    state, logits = dict(model.state_dict()), generate(model, inputs)
    if stored is None:
        if differing := _differing(state, undamaged.state):
            raise NotRefusedError(f"files that do not add up; {len(differing)} tensors differ, such as {differing[0]}")
        return
    reference = undamaged.model
    if stored != _undamaged_tensors(undamaged):
        with copy_of(undamaged.folder) as clean:
            _rewrite(clean, stored)
            reference = load(clean)
    expected = _last_logits(reference, inputs)
    if not are_numbers(expected):
        raise NotRefusedError("the answer's logits are NaN or endless")
    if differing := _differing(state, dict(reference.state_dict())):
        raise OtherValueError(f"{len(differing)} tensors are not those of the files, such as {differing[0]}")
    if not same_logits(logits, expected):
        raise OtherValueError("other logits than those of the same tensors in undamaged files")


def _last_logits(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits[:, -1].float()


def _rewrite(folder: Path, stored: dict[str, weights.Stored]) -> None:
    """The tensors in the files that an undamaged folder keeps them in."""
    for path in folder.glob("*.safetensors"):
        weights.write_file(path, {name: stored[name] for name in weights.read_file(path)})


def _differing(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    if found.keys() != expected.keys():
        return sorted(found.keys() ^ expected.keys())
    return [name for name, tensor in found.items() if not _equal(tensor, expected[name])]


def _equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.equal(found.nan_to_num(nan=1.5e30), expected.nan_to_num(nan=1.5e30))


def _check_conversion(undamaged: Checkpoint, folder: Path, stored: dict[str, weights.Stored] | None) -> None:
    with scratch() as results:
        found = _convert(folder, results / "found", other(undamaged.layout))
        with copy_of(undamaged.folder) as clean:
            _rewrite(clean, stored or _undamaged_tensors(undamaged))
            expected = _convert(clean, results / "expected", other(undamaged.layout))
        if found != expected:
            error = OtherValueError if stored else NotRefusedError
            raise error("the result's tensors are not those of the same values in undamaged files")


def _convert(source: Path, destination: Path, to: str) -> dict[str, weights.Stored] | None:
    try:
        convert_checkpoint(source, destination, to=to)
    except BaseException:
        if destination.exists():
            raise OtherValueError("a conversion that failed left its destination behind") from None
        raise
    tensors = weights.well_formed(destination)
    shutil.rmtree(destination)
    return tensors
