"""How answers are sampled: the original's settings, and which values mean something."""

import math
from numbers import Integral, Real
from typing import Any

# The original's, in its chat loop. What a checkpoint's generation_config.json says goes before them.
SAMPLING = {"max_new_tokens": 512, "do_sample": True, "temperature": 0.2, "top_p": 0.95, "repetition_penalty": 1.1}
OF_SAMPLING_ALONE = ("temperature", "top_p")

# Colder, and logits divided by it are no numbers in float32; hotter, and every token is as likely as another.
COLDEST, HOTTEST = 1e-6, 100.0
LEAST_PENALTY, LARGEST_PENALTY = 0.01, 100.0

# What a conversation settles itself, or what would leave its cache out of step with its tokens.
NOT_FOR_CONVERSATIONS = (
    *(
        "inputs",
        "input_ids",
        "inputs_embeds",
        "attention_mask",
        "cache",
        "past_key_values",
        "use_cache",
        "cache_implementation",
    ),
    *("streamer", "stopping_criteria", "return_dict_in_generate", "num_beams", "num_return_sequences"),
    *("assistant_model", "prompt_lookup_num_tokens", "generation_config"),
)


def check_sampling(options: dict[str, Any]) -> None:
    """Raises ValueError where an argument of `SAMPLING` has a value that means nothing.

    Args:
        options: arguments of `generate`, without those of sampling where nothing is sampled.
    """
    count, number = options["max_new_tokens"], options["repetition_penalty"]
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"max_new_tokens is {count!r}; expected a whole number of at least 1.")
    if not _between(number, LEAST_PENALTY, LARGEST_PENALTY):
        raise ValueError(
            f"repetition_penalty is {number!r}; expected a number from {LEAST_PENALTY:g} to {LARGEST_PENALTY:g}."
        )
    if "temperature" in options and not _between(options["temperature"], COLDEST, HOTTEST):
        raise ValueError(
            f"temperature is {options['temperature']!r}; expected a number from {COLDEST:g} to {HOTTEST:g}, or "
            "do_sample=False for the most likely token."
        )
    if "top_p" in options and not (_between(options["top_p"], 0, 1) and options["top_p"] > 0):
        raise ValueError(f"top_p is {options['top_p']!r}; expected a number above 0 and at most 1.")


def _between(value: Any, least: float, largest: float) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return is_number and least <= float(value) <= largest
