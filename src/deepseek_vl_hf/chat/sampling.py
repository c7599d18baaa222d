"""How answers are sampled: the original's settings, and which arguments are a conversation's own."""

import difflib
import inspect
from collections.abc import Iterable

from transformers import GenerationConfig, GenerationMixin

# The original's, in its chat loop. What a checkpoint's generation_config.json says goes before them.
SAMPLING = {"max_new_tokens": 512, "do_sample": True, "temperature": 0.2, "top_p": 0.95, "repetition_penalty": 1.1}
OF_SAMPLING_ALONE = ("temperature", "top_p")

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

# How others call what has a name of its own here.
MEANT = {
    **dict.fromkeys(("image", "picture", "pictures", "img", "imgs", "file", "files"), "images"),
    **dict.fromkeys(("question", "prompt", "message", "messages", "query"), "text"),
    **dict.fromkeys(("max_tokens", "max_output_tokens", "max_completion_tokens"), "max_new_tokens"),
    **dict.fromkeys(("stop", "stop_sequences"), "stop_strings"),
    **dict.fromkeys(("sample", "sampling"), "do_sample"),
    **dict.fromkeys(("system_prompt", "system_message"), "system"),
}


def check_names(names: Iterable[str], of_call: Iterable[str]) -> None:
    """Looks at the names of arguments, of which those for `generate` are many.

    Args:
        names: what was passed.
        of_call: the call's own arguments, which may be what is meant by a wrong name.

    Raises:
        TypeError: an argument that neither `generate` nor a conversation knows, with the one that may be meant.
    """
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    known |= {*inspect.signature(GenerationMixin.generate).parameters, *NOT_FOR_CONVERSATIONS, "tokenizer"}
    known -= {"self", "kwargs"}
    for name in names:
        if name in known:
            continue
        close = difflib.get_close_matches(name, [*of_call, *known], 1)
        meant = MEANT.get(name) or (close[0] if close else None)
        advice = f"Did you mean {meant}=?" if meant else "Others are arguments of model.generate."
        raise TypeError(f"There is no argument {name}=. {advice} The call's own: {', '.join(of_call)}.")
