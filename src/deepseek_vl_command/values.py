"""What the values of arguments have to be; argparse makes errors of what does not fit."""

import argparse
import math
import re
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def checked(read: Callable[[str], Value], fits: Callable[[Value], bool], expected: str) -> Callable[[str], Value]:
    """A `type` for argparse: reads the text of an argument and refuses values that do not fit.

    Args:
        read: makes a value of the text; raises ValueError where it is none.
        fits: whether a value is allowed.
        expected: what is, for the message.
    """

    def value_of(text: str) -> Value:
        try:
            value = read(text)
        except ValueError:
            pass
        else:
            if fits(value):
                return value
        raise argparse.ArgumentTypeError(f"found {text!r}; expected {expected}")

    return value_of


def _gigabytes_or_so(text: str) -> bool:
    found = re.fullmatch(r"(\d+\.?\d*) ?[KMGT]B", text.strip(), re.IGNORECASE)
    return found is not None and float(found[1]) > 0


count = checked(int, lambda value: value >= 1, "a whole number of at least 1")
port = checked(int, lambda value: 0 <= value < 2**16, "a whole number from 0 to 65535")
not_negative = checked(float, lambda value: 0 <= value < math.inf, "a number of at least 0")
positive = checked(float, lambda value: 0 < value < math.inf, "a number above 0")
share = checked(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
size = checked(str, _gigabytes_or_so, "a size such as 5GB or 500MB")
