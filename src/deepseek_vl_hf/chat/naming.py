"""Wrong names of arguments: which one may be meant."""

import difflib
import inspect
from collections.abc import Iterable

from transformers import GenerationConfig, GenerationMixin

from .sampling import NOT_FOR_CONVERSATIONS

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
