"""What the values of arguments have to be; argparse makes errors of what does not fit."""

import argparse
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


def _is_text(text: str) -> bool:
    """Whether it can be written: bytes of the command line that are no UTF-8 become halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_size(text: str) -> bool:
    found = re.fullmatch(r"(\d+\.?\d*) ?([KMGT])B", text.strip(), re.IGNORECASE)
    return found is not None and 1 <= float(found[1]) * 1000 ** ("KMGT".index(found[2].upper()) + 1) < 2**63


def _is_device(text: str) -> bool:
    return re.fullmatch(r"[a-z]+(:\d+)?", text) is not None


# The same as of the package, which says why (`deepseek_vl_hf.models.sampling`).
COLDEST, HOTTEST = 1e-6, 100.0
LEAST_PENALTY, LARGEST_PENALTY = 0.01, 100.0

text = checked(str, _is_text, "text in UTF-8")
name = checked(str, lambda value: bool(value.strip()) and _is_text(value), "a name in UTF-8")
count = checked(int, lambda value: value >= 1, "a whole number of at least 1")
number = checked(int, lambda value: value >= 0, "a whole number of at least 0")
positive = checked(float, lambda value: 0 < value < float("inf"), "a number above 0")
port = checked(int, lambda value: 0 <= value < 2**16, "a whole number from 0 to 65535")
temperature = checked(
    float, lambda value: value == 0 or COLDEST <= value <= HOTTEST, f"0, or a number from {COLDEST:g} to {HOTTEST:g}"
)
share = checked(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
penalty = checked(
    float,
    lambda value: LEAST_PENALTY <= value <= LARGEST_PENALTY,
    f"a number from {LEAST_PENALTY:g} to {LARGEST_PENALTY:g}",
)
size = checked(str, _is_size, "a size such as 5GB or 500MB")
device = checked(str, _is_device, "a device such as cpu, cuda or cuda:1")
