"""generation_config.json of a checkpoint. transformers takes any value, and fails where it is used."""

from pathlib import Path
from typing import Any

from ...kinds import is_number, is_switch, is_whole
from .files import read_json

GENERATION = "generation_config.json"
WHOLE_NUMBERS = (
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "top_k", "num_beams", "num_return_sequences"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "prompt_lookup_num_tokens", "prefill_chunk_size"),
)
NUMBERS = (
    *("temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "guidance_scale", "max_time"),
    *("repetition_penalty", "encoder_repetition_penalty", "length_penalty"),
)
ID = ("bos_token_id", "pad_token_id", "decoder_start_token_id")
IDS = ("eos_token_id", "suppress_tokens")
SWITCHES = ("do_sample", "use_cache")


def read_generation_file(folder: Path) -> dict[str, Any]:
    """What the folder's generation_config.json holds; nothing where there is none.

    Raises:
        ValueError: it is no JSON object, or has a value of another kind than its name needs.
    """
    path = folder / GENERATION
    if not path.is_file():
        return {}
    content = read_json(path)
    for names, fits, expected in (
        (WHOLE_NUMBERS, is_whole, "a whole number"),
        (NUMBERS, is_number, "a number"),
        (ID, _is_id, "the number of a token"),
        (IDS, _is_ids, "the number of a token, or a list of them"),
        (SWITCHES, is_switch, "true or false"),
    ):
        for name in names:
            if content.get(name) is not None and not fits(content[name]):
                raise ValueError(
                    f"{path} has {name} {content[name]!r}; expected {expected}. Correct the value, or download the "
                    "file again."
                )
    return content


def _is_id(value: Any) -> bool:
    return is_whole(value, -(2**31) + 1, 2**31 - 1)


def _is_ids(value: Any) -> bool:
    return all(map(_is_id, value)) if isinstance(value, list) else _is_id(value)
