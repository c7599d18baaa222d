"""Training rows as several trainers write them: a row's pictures are learned, or it is refused by its number."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import torch

from deepseek_vl_hf import ConversationCollator, load_conversations
from group_conversations import picture
from verdict import NotRefusedError, OtherValueError, Recipe, accepting
from world import checkpoint, scratch

FAMILIES = ("vl", "vl2_mha")
ANOTHER = 50  # the number of a picture too many
SHAPES = ("parts", "original", "<image>", "<image_placeholder>", "bare parts", "text alone")
FORMS = ("path", "pillow", "bytes", "dict", "data:")
ROUTES = ("collator",) * 4 + (
    "lines",
    "lines",
    "array",
    "lines utf-8-sig",
    "array utf-8-sig",
    "lines utf-16",
    "lines gbk",
)
DEFECTS = ("none",) * 8 + ("a picture more", "a picture less", "broken picture", "absent picture", "no answer")
COLUMNS = ("none",) * 8 + ("videos", "audios", "tools", "id")
WORDS = ("What is it?", "<|User|>", "中", "", "a circle", "<｜end▁of▁sentence｜>", "How many?\n", "🙂")


def recipes() -> st.SearchStrategy[Recipe]:
    turn = st.fixed_dictionaries(
        {"pictures": st.integers(0, 2), "question": st.sampled_from(WORDS), "answer": st.sampled_from(WORDS)}
    )
    return st.fixed_dictionaries(
        {
            "family": st.sampled_from(FAMILIES),
            "shape": st.sampled_from(SHAPES),
            "as": st.sampled_from(FORMS),
            "route": st.sampled_from(ROUTES),
            "defect": st.sampled_from(DEFECTS),
            "column": st.sampled_from(COLUMNS),
            "turns": st.lists(turn, min_size=1, max_size=3),
        }
    )


def check(recipe: Recipe) -> None:
    with scratch() as folder:
        row, wanted = _row(recipe, folder)
        processor = checkpoint(recipe["family"], "original").processor
        collator = ConversationCollator(processor)
        if _is_good(recipe):
            with accepting("a good row"):
                batch = collator(_rows(recipe, row, folder))
        else:
            try:
                batch = collator(_rows(recipe, row, folder))
            except (TypeError, ValueError) as error:
                if not re.search(r"row \d|line \d|entry \d|number \d|rows\.json", str(error), re.IGNORECASE):
                    raise OtherValueError(f"the error does not name the row: {error}") from error
                raise
        if recipe["column"] in ("videos", "audios", "tools"):
            raise NotRefusedError(f"the column {recipe['column']}, which nobody reads")
        if recipe["defect"] in ("broken picture", "absent picture") and wanted:
            raise NotRefusedError(f"a {recipe['defect']}")
        _compare(processor, recipe, batch, wanted)


def _is_good(recipe: Recipe) -> bool:
    """Shapes that are documented, in files that JSON's standard allows."""
    plain = (
        recipe["shape"] in ("parts", "original") and recipe["defect"] == "none" and recipe["column"] in ("none", "id")
    )
    says_something = any(turn["answer"].strip() for turn in recipe["turns"])
    return (
        plain
        and says_something
        and recipe["route"] in ("collator", "lines")
        and recipe["as"] in ("path", "data:", "pillow")
    )


def _row(recipe: Recipe, folder: Path) -> tuple[dict[str, Any], list[int]]:
    """The row, and which pictures it shows."""
    placeholder = recipe["shape"] if recipe["shape"].startswith("<") else "<image_placeholder>"
    if recipe["shape"] == "original":
        placeholder = checkpoint(recipe["family"], "original").processor.image_token
    messages: list[dict[str, Any]] = []
    column: list[Any] = []
    wanted: list[int] = []
    for turn in recipe["turns"]:
        numbers = range(len(wanted), len(wanted) + turn["pictures"])
        wanted += numbers
        pictures = [_given(number, recipe, folder) for number in numbers]
        messages.append(_question(recipe, turn["question"], pictures, placeholder))
        column += pictures
        role = "Assistant" if recipe["shape"] == "original" else "assistant"
        messages.append({"role": role, "content": turn["answer"]})
    if recipe["defect"] == "no answer":
        messages = [message for message in messages if message["role"].lower() == "user"]
    row: dict[str, Any] = {"messages": messages}
    if recipe["shape"] not in ("parts", "original"):
        if recipe["defect"] == "a picture more":
            column.append(_given(ANOTHER, recipe, folder))
        row["images"] = column[:-1] if recipe["defect"] == "a picture less" else column
    if "images" in row and (recipe["shape"] == "text alone" or not wanted):
        # Nothing says where they stand, or how many there are.
        wanted = [*wanted, *[ANOTHER] * (recipe["defect"] == "a picture more")]
        wanted = wanted[: len(row["images"])]
    if recipe["column"] != "none":
        row[recipe["column"]] = ["x"]
    return row, wanted


def _question(recipe: Recipe, text: str, pictures: list[Any], placeholder: str) -> dict[str, Any]:
    if recipe["shape"] == "parts":
        parts = [{"type": "image", "image": each} for each in pictures]
        return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
    if recipe["shape"] == "bare parts":
        return {"role": "user", "content": [*[{"type": "image"}] * len(pictures), {"type": "text", "text": text}]}
    if recipe["shape"] == "original":
        return {"role": "User", "content": placeholder * len(pictures) + text, "images": pictures}
    return {"role": "user", "content": ("" if recipe["shape"] == "text alone" else placeholder * len(pictures)) + text}


def _given(number: int, recipe: Recipe, folder: Path) -> Any:
    path = folder / f"{number}.png"
    picture(number).save(path)
    if recipe["defect"] == "broken picture":
        path.write_bytes(path.read_bytes()[:50])
    if recipe["defect"] == "absent picture":
        path.unlink()
        return str(path)
    content = path.read_bytes()
    in_a_file = recipe["route"] != "collator"
    form = "path" if in_a_file and recipe["as"] in ("pillow", "bytes", "dict") else recipe["as"]
    if form == "pillow" and recipe["defect"] == "broken picture":
        form = "bytes"
    return {
        "path": lambda: path.name if in_a_file else str(path),
        "pillow": lambda: picture(number),
        "bytes": lambda: content,
        "dict": lambda: {"bytes": content, "path": None},
        "data:": lambda: f"data:image/png;base64,{base64.b64encode(content).decode()}",
    }[form]()


def _rows(recipe: Recipe, row: dict[str, Any], folder: Path) -> list[Any]:
    if recipe["route"] == "collator":
        return [row]
    layout, _, encoding = recipe["route"].partition(" ")
    path = folder / "rows.json"
    text = json.dumps([row], indent=1, ensure_ascii=False) if layout == "array" else json.dumps(row, ensure_ascii=False)
    path.write_text(text + "\n", encoding=encoding or "utf-8", errors="replace")
    return load_conversations(path, checkpoint(recipe["family"], "original").processor.image_token)


def _compare(processor: Any, recipe: Recipe, batch: Any, wanted: list[int]) -> None:
    """The batch has the row's pictures in order, and learns its answers."""
    if recipe["route"].endswith("gbk") and any(ord(letter) > 127 for letter in json.dumps(recipe, ensure_ascii=False)):
        return  # accepted by chance: these bytes are UTF-8, too
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    lengths = processor.num_tokens_of_images(batch) if "pixel_values" in batch else []
    if len(lengths) != len(wanted) or int((ids == processor.image_token_id).sum()) != sum(lengths):
        raise OtherValueError(f"{len(lengths)} pictures are learned of {len(wanted)}")
    if recipe["family"] == "vl" and wanted:
        each = [processor.image_processor(picture(number), return_tensors="pt")["pixel_values"] for number in wanted]
        if not torch.equal(batch["pixel_values"], torch.cat(each)):
            raise OtherValueError("the pictures are others, or stand in another order")
    learned = processor.tokenizer.decode(labels[1:][labels[1:] >= 0], clean_up_tokenization_spaces=False)
    answers = "".join(turn["answer"].strip() for turn in recipe["turns"])
    without_marks = learned.replace(" ", "").replace(processor.tokenizer.eos_token, "")
    if without_marks != answers.replace(" ", "").replace(processor.tokenizer.eos_token, ""):
        raise OtherValueError(f"learns {learned!r}; the answers are {answers!r}")
