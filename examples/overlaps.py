"""Which of the boxes that a model wrote are those that were expected."""

from deepseek_vl_hf.evaluation.tasks.refcoco import LEAST_OVERLAP, overlap

Box = tuple[int, int, int, int]  # left, top, right, bottom


def matches(expected: list[Box], given: list[Box]) -> int:
    """How many of the boxes are found; each given one counts once."""
    free = list(given)
    count = 0
    for box in expected:
        best = max(free, key=lambda other: overlap(box, other), default=None)
        if best is not None and overlap(box, best) >= LEAST_OVERLAP:
            free.remove(best)
            count += 1
    return count


def same_places(expected: list[Box], given: list[Box]) -> bool:
    """Whether there are just the boxes that are expected, each with one of its own."""
    return len(expected) == len(given) == matches(expected, given)
