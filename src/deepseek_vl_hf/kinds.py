"""Whether a value, of a file or of an argument, is a number. To Python true and false are some; here they are none."""

import math
from typing import Any

import numpy as np


def is_switch(value: Any) -> bool:
    """Whether a value is true or false."""
    return isinstance(value, (bool, np.bool_))


def is_number(value: Any) -> bool:
    """Whether a value is a real, finite number."""
    if is_switch(value):
        return False
    # Whole numbers of any size are finite, and too large for a float to ask it.
    is_int = isinstance(value, (int, np.integer))
    return is_int or (isinstance(value, (float, np.floating)) and math.isfinite(value))


def is_whole(value: Any, smallest: float = -math.inf, largest: float = math.inf) -> bool:
    """Whether a value is a whole number between two others, which belong to them."""
    return isinstance(value, (int, np.integer)) and not is_switch(value) and smallest <= int(value) <= largest
