"""How answers are sampled: the original's settings, and which arguments are a conversation's own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from ..kinds import is_number
from ..models.sampling import WHEN_DRAWING, check_sampling

# The original's, in its chat loop. What a checkpoint's generation_config.json says goes before them.
SAMPLING = {"max_new_tokens": 512, "do_sample": True, "temperature": 0.2, "top_p": 0.95, "repetition_penalty": 1.1}

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


class Likelihood(LogitsProcessor):
    """Notes how likely the likeliest token of each step is, for `generate` that takes no other; changes nothing."""

    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores, [sequences, vocabulary], as they came."""
        self._steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores

    def mean(self, sequence: int, tokens: int) -> float:
        """Mean log-probability of a sequence's first tokens."""
        return float(torch.stack(self._steps[:tokens])[:, sequence].mean())


def options_of(model: Any, processor: Any, *asked_for: Mapping[str, Any]) -> dict[str, Any]:
    """What `generate` is called with: the original's sampling, then the checkpoint's, then what is asked for.

    Whoever names a temperature, or another number that counts only when tokens are sampled, wants them sampled,
    whatever the checkpoint says; a temperature of 0 stands for the likeliest token each time.

    Args:
        model: one of the package's generation models.
        processor: its processor.
        *asked_for: arguments of `generate`, later ones before earlier ones; None stands for what is not asked for.

    Raises:
        ValueError: an argument that is not for conversations, or one whose value means nothing.
    """
    stored = {name: getattr(model.generation_config, name, None) for name in SAMPLING}
    stored = {name: value for name, value in stored.items() if value is not None}
    merged = {name: value for each in asked_for for name, value in _with_switch(each).items()}
    asked = {name: value for name, value in merged.items() if value is not None}
    if refused := [name for name in NOT_FOR_CONVERSATIONS if asked.get(name, 1) != 1]:
        raise ValueError(f"{', '.join(refused)}: not for conversations. Call model.generate for that.")
    options = {**SAMPLING, **stored, **asked}
    if "stop_strings" in options:
        options["tokenizer"] = processor.tokenizer
    if not options["do_sample"]:
        for name in WHEN_DRAWING:
            options.pop(name, None)
    check_sampling(options.get)
    return options


def _with_switch(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments with `do_sample` as their numbers mean it, unless it is among them."""
    asked = dict(asked)
    if asked.get("do_sample") is not None or all(asked.get(name) is None for name in WHEN_DRAWING):
        return asked
    temperature = asked.get("temperature")
    asked["do_sample"] = not (is_number(temperature) and temperature == 0)
    if not asked["do_sample"]:
        del asked["temperature"]  # else it would meet a later call's sampling, and is no temperature
    return asked


def ending_ids(options: dict[str, Any], model: Any) -> list[int]:
    """The tokens that end an answer, given the options of `generate`."""
    eos = options.get("eos_token_id", model.generation_config.eos_token_id)
    return list(eos) if isinstance(eos, list) else [eos]


def end_of(tokens: Sequence[int], options: dict[str, Any], model: Any) -> str:
    """How an answer of these tokens ended: "eos", "length" or "stopped"."""
    if tokens[-1] in ending_ids(options, model):
        return "eos"
    return "length" if len(tokens) >= options["max_new_tokens"] else "stopped"


def with_penalty_of_answers(options: dict[str, Any], prompt_length: int) -> dict[str, Any]:
    """The same options, their `repetition_penalty` for the answer alone.

    So it is in the original, which hands embeddings to `generate`; transformers' own also counts the prompt and its
    image places.

    Args:
        options: of `generate`.
        prompt_length: of a batch the longest, as all are padded to that.
    """
    options = dict(options)
    penalty = float(options.pop("repetition_penalty", None) or 1.0)
    processors = list(options.pop("logits_processor", None) or ())
    if penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=prompt_length))
    # Outright: else the checkpoint's generation config would be asked.
    return {**options, "logits_processor": LogitsProcessorList(processors), "repetition_penalty": 1.0}
