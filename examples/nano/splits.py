"""What training may see and what is kept for evaluation: a split by hash, so that it needs no list and no order.

A string or a scene belongs to the held-out tenth or to training, and the generator of the other split never draws it.
"""

import hashlib

SPLITS = ("train", "held-out")
HELD_OUT_SHARE = 10


def is_held_out(key: str) -> bool:
    """Whether a string or the description of a scene is kept for evaluation; the same on every machine."""
    return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_SHARE == 0


def belongs_to(key: str, split: str) -> bool:
    """Whether `key` may be drawn in `split`.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"The split is {split!r}; expected {' or '.join(map(repr, SPLITS))}.")
    return is_held_out(key) == (split == "held-out")
