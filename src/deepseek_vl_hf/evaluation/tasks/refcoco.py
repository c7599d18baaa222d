"""RefCOCO, RefCOCO+ and RefCOCOg in DeepSeek-VL2's own form: asked by control tokens, answered in thousandths.

lmms-eval imports this file by its path, so it names the package in full.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_vl_hf.models.grounding import find_boxes

LEAST_OVERLAP = 0.5
Box = Sequence[float]


def one_row_per_expression(dataset: Any) -> Any:
    """A data set in which `expression` holds one of the phrases that each row lists under `answer`.

    Args:
        dataset: of `datasets`, with the columns `image`, `answer` and `bbox` (left, top, width, height, in pixels).
    """
    phrases = dataset["answer"]
    numbers = [number for number, texts in enumerate(phrases) for _ in texts]
    # Rows are repeated by their numbers, so that no picture is decoded or copied.
    return dataset.select(numbers).add_column("expression", [text for texts in phrases for text in texts])


def picture(row: Mapping[str, Any]) -> list[Any]:
    """The row's picture."""
    return [row["image"].convert("RGB")]


def question(row: Mapping[str, Any]) -> str:
    """The phrase between the tokens that ask for its place."""
    return f"<|ref|>{row['expression']}<|/ref|>"


def score(row: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
    """1 where the answer's first box covers the right one well enough, else 0.

    Args:
        row: with its picture, whose size makes pixels of thousandths.
        answers: the one answer, with the tokens that name places.
    """
    found = find_boxes(answers[0], row["image"]).boxes
    left, top, width, height = row["bbox"]
    right = bool(found) and overlap(found[0][0], (left, top, left + width, top + height)) >= LEAST_OVERLAP
    return {"refcoco_ACC@0.5": float(right)}


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0 where both are empty."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    union = _area(one) + _area(other) - common
    return common / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
