"""The numbers that steer generation: values that mean nothing are named before they do nothing, or nonsense.

transformers applies `top_p` only below 1, so 2 and NaN are no limit at all; it divides by any temperature above 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

# Colder, and logits divided by it are no numbers in float32; hotter, and every token is as likely as another.
COLDEST, HOTTEST = 1e-6, 100.0
LEAST_PENALTY, LARGEST_PENALTY = 0.01, 100.0


@dataclass(frozen=True)
class Range:
    """What an argument may be.

    Attributes:
        lowest: the smallest value.
        highest: the largest.
        whole: whether only whole numbers are meant.
        above: whether the value must lie above `lowest`.
        advice: what to do instead, where that is not plain.
    """

    lowest: float
    highest: float = math.inf
    whole: bool = False
    above: bool = False
    advice: str = ""

    def holds(self, value: Any) -> bool:
        """Whether a value is in it."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        # Whole numbers of any size are finite, and too large for a float to ask it.
        number = int(value) if isinstance(value, Integral) else float(value)
        within = self.lowest < number if self.above else self.lowest <= number
        return within and number <= self.highest and (isinstance(number, int) or math.isfinite(number))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a finite number"
        if not math.isfinite(self.lowest):
            return kind
        begin = f"above {self.lowest:g}" if self.above else f"from {self.lowest:g}"
        return f"{kind} {begin}" + (f" to {self.highest:g}" if math.isfinite(self.highest) else " up")


ALWAYS = {
    "repetition_penalty": Range(LEAST_PENALTY, LARGEST_PENALTY, advice="1 changes nothing"),
    "length_penalty": Range(-math.inf),
    "max_new_tokens": Range(1, whole=True),
    "min_new_tokens": Range(0, whole=True),
    "max_length": Range(1, whole=True),
    "min_length": Range(0, whole=True),
    "num_beams": Range(1, whole=True),
    "num_return_sequences": Range(1, whole=True),
    "no_repeat_ngram_size": Range(0, whole=True),
}
WHEN_DRAWING = {
    "temperature": Range(COLDEST, HOTTEST, advice="for the likeliest token each time pass do_sample=False"),
    "top_p": Range(0, 1, above=True, advice="1 keeps all tokens"),
    "top_k": Range(0, whole=True, advice="0 keeps all tokens"),
    "min_p": Range(0, 1),
    "top_h": Range(0, 1, above=True),
    "typical_p": Range(0, 1, above=True),
    "epsilon_cutoff": Range(0, 1),
    "eta_cutoff": Range(0, 1),
}


def check_sampling(asked: Callable[[str], Any]) -> None:
    """Looks at every number that steers generation.

    Args:
        asked: gives the value that is in force for a name, or None.

    Raises:
        ValueError: a value is no number, or out of range. Those of drawing are looked at when tokens are drawn.
    """
    ranges = {**ALWAYS, **WHEN_DRAWING} if asked("do_sample") else ALWAYS
    for name, allowed in ranges.items():
        value = asked(name)
        if value is not None and not allowed.holds(value):
            advice = f"; {allowed.advice}" if allowed.advice else ""
            raise ValueError(f"{name} is {value!r}; expected {allowed}{advice}.")
