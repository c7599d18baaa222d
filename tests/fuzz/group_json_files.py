"""Every small file of a checkpoint, changed: values, keys, whole texts; then loaded or converted, and asked.

A changed setting may give another model, which is what it is for. So an answer other than the undamaged one is right if
the change is one that a checkpoint may have (a value of the same kind, a key that is left out), and if both layouts
agree about it. After a change of kind (text for a number, say) it is not.
"""

import copy
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st

from deepseek_vl_hf.checkpoints import convert_checkpoint
from verdict import NotRefusedError, OtherValueError, Recipe
from world import FAMILIES, LAYOUTS, Answer, Checkpoint, answer, are_numbers, checkpoint, copy_of, other

FAMILIES_OF_FILES = FAMILIES[:3]  # latent attention has the files of the third one
ENTRIES_OF_VOCABULARIES = 30  # they would be nine in ten of all places

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1e-6, 10**4, 10**9, 2**63, 1e300, float("nan"), float("inf")),
    *("", "x", "1", "../../etc/passwd", "<image>", "float99", "\ud83d", "{{ 1 / 0 }}", "é" * 50),
    *([], [1], [None], [[]], {}, {"a": 1}, {"type": "x"}, [0.5, 0.5, 0.5], [384, 384], {"height": 0, "width": -1}),
)
NESTED = ("nested lists", "nested objects")  # without end, and too long for a report
TEXTS = (
    *("", " ", "null", "[]", "{}", "1", '"x"', "{", "nan", "\x00", NESTED[0], NESTED[1]),
    *("<html>404</html>", '{"model_type": "deepseek_vl"}', '{"model_type": "llama"}', '{"model_type": 3}'),
    *(
        "{{ 1 / 0 }}",
        "{{ messages.foo.bar() }}",
        "{% for %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0].content }}",
    ),
)


@cache
def small_files(family: str, layout: str) -> dict[str, str]:
    folder = checkpoint(family, layout).folder
    paths = sorted([*folder.glob("*.json"), *folder.glob("*.jinja")])
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def places(content: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside a file."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    some = list(pairs)
    some = some[:ENTRIES_OF_VOCABULARIES] if before[-1:] in (("vocab",), ("merges",), ("weight_map",)) else some
    return [path for key, value in some for path in ((*before, key), *places(value, (*before, key)))]


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    family, layout = draw(st.sampled_from(FAMILIES_OF_FILES)), draw(st.sampled_from(LAYOUTS))
    files = small_files(family, layout)
    # config.json decides most; it gets a third.
    name = draw(st.sampled_from([*files, *["config.json"] * (len(files) // 2)]))
    recipe = {"family": family, "layout": layout, "way": draw(st.sampled_from(("load", "convert"))), "file": name}
    if name.endswith(".jinja") or draw(st.integers(0, 5)) == 0:
        return {**recipe, "text": draw(_texts(files[name]))}
    change = st.fixed_dictionaries(
        {
            "do": st.sampled_from(("set", "set", "set", "delete", "rename", "add")),
            "at": st.sampled_from(places(json.loads(files[name]))).map(list),
            "value": st.sampled_from(VALUES),
        }
    )
    return {**recipe, "changes": draw(st.lists(change, min_size=1, max_size=2))}


def _texts(text: str) -> st.SearchStrategy[Any]:
    """A whole text: an odd one, or the file's own that was cut, or encoded in another way."""
    cut = st.integers(0, len(text)).map(lambda end: {"cut": end})
    return (
        st.sampled_from(TEXTS)
        | cut
        | st.sampled_from(("utf-8-sig", "utf-16", "latin-1")).map(lambda e: {"encoding": e})
    )


def check(recipe: Recipe) -> None:
    undamaged = checkpoint(recipe["family"], recipe["layout"])
    with copy_of(undamaged.folder) as folder:
        is_another = _change(folder / recipe["file"], recipe)
        if recipe["way"] == "convert":
            destination = folder.parent / "converted"
            convert_checkpoint(folder, destination, to=other(recipe["layout"]))
            found = answer(destination)
        else:
            found = answer(folder)
        if not are_numbers(found.logits):
            raise NotRefusedError("the answer's logits are NaN or endless")
        if found.same(undamaged.answer):
            return
        expected = _without_other_kinds(folder, undamaged, recipe) if is_another else None
        if expected is not None and not found.same(expected):
            raise OtherValueError(f"another {_difference(found, expected)}")
        _check_that_layouts_agree(folder, found, recipe)


def _without_other_kinds(folder: Path, undamaged: Checkpoint, recipe: Recipe) -> Answer:
    """What the changes give without those that gave a value another kind, which have to be refused or mean nothing."""
    path = folder / recipe["file"]
    before = (
        json.loads((undamaged.folder / recipe["file"]).read_text(encoding="utf-8")) if "changes" in recipe else None
    )
    kept = [change for change in recipe.get("changes", ()) if not _is_of_other_kind(before, change)]
    if not kept:
        return undamaged.answer
    damaged = path.read_bytes()
    shutil.copyfile(undamaged.folder / recipe["file"], path)
    _change(path, {**recipe, "changes": kept})
    try:
        return answer(folder)
    finally:
        path.write_bytes(damaged)


def _is_of_other_kind(before: Any, change: dict[str, Any]) -> bool:
    after = copy.deepcopy(before)
    _apply(after, change)
    return _other_kind(before, after, change)


def _check_that_layouts_agree(folder: Path, found: Answer, recipe: Recipe) -> None:
    there = folder.parent / "the other layout"
    if recipe["way"] == "convert":
        again = answer(folder)
    else:
        try:
            convert_checkpoint(folder, there, to=other(recipe["layout"]))
        except (ValueError, OSError):
            return  # not all that can be loaded can be written in the other layout
        again = answer(there)
    if not found.same(again):
        raise OtherValueError(f"loaded and converted have another {_difference(found, again)}")


def _difference(found: Answer, expected: Answer) -> str:
    if found.inputs.keys() != expected.inputs.keys():
        return f"set of inputs: {sorted(found.inputs.keys() ^ expected.inputs.keys())}"
    for name, values in found.inputs.items():
        if values.shape != expected.inputs[name].shape or not values.equal(expected.inputs[name]):
            return name
    return "answer"


def _change(path: Path, recipe: Recipe) -> bool:
    """Changes a file; returns whether it says something of another kind than before."""
    text = path.read_text(encoding="utf-8")
    if "text" in recipe:
        return _change_text(path, text, recipe["text"])
    content = json.loads(text)
    before = copy.deepcopy(content)
    for change in recipe["changes"]:
        _apply(content, change)
    path.write_text(json.dumps(content), encoding="utf-8")
    return any(_other_kind(before, content, change) for change in recipe["changes"])


def _change_text(path: Path, text: str, change: Any) -> bool:
    if isinstance(change, str):
        nested = {NESTED[0]: "[" * 100_000, NESTED[1]: '{"a":' * 5000 + "1" + "}" * 5000}
        path.write_text(nested.get(change, change), encoding="utf-8")
        says_nothing = change == "{}" or (path.name == "tokenizer_config.json" and change.startswith('{"model_type"'))
        return not path.name.endswith(".jinja") and not says_nothing  # another template is meant
    if "cut" in change:
        path.write_text(text[: change["cut"]], encoding="utf-8")
        return not path.name.endswith(".jinja")
    path.write_bytes(text.encode(change["encoding"], errors="replace"))
    return True


def _apply(content: Any, change: dict[str, Any]) -> None:
    *parents, key = change["at"]
    for parent in parents:
        try:
            content = content[parent]
        except (KeyError, IndexError, TypeError):
            return  # an earlier change took it away
    if not isinstance(content, (dict, list)) or (isinstance(content, list) and not 0 <= key < len(content)):
        return
    if change["do"] == "set":
        content[key] = change["value"]
    elif isinstance(content, list):
        content.insert(key, change["value"]) if change["do"] == "add" else content.pop(key)
    elif change["do"] == "add":
        content[f"{key}_"] = change["value"]
    else:
        value = content.pop(key, None)
        if change["do"] == "rename":
            content[f"{key}_"] = value


def _other_kind(before: Any, after: Any, change: dict[str, Any]) -> bool:
    """Whether a change gave a value a kind that it did not have; None is as good as leaving it out."""
    try:
        for key in change["at"]:
            before, after = before[key], after[key]
    except (KeyError, IndexError, TypeError):
        return False
    return before is not None and after is not None and _kind(before) != _kind(after)


def _kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__
