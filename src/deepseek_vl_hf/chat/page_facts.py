"""What the page says of a model and of its answers."""

from pathlib import Path

from ..models.weights import has_4_bits
from ..nano.folder import NANO, NANO_VL2, packaged
from .figures import Figures
from .session import Chat

OF_PACKAGED = {
    NANO: "A small model that knows drawn pictures: shapes and their colors, printed capitals and digits, bar charts. "
    "It has never seen a photograph.",
    NANO_VL2: "A small model that knows drawn pictures: shapes, their colors and where they are, lines of capitals and "
    "digits. It has never seen a photograph.",
}


def abilities_of(chat: Chat) -> str:
    """One line on what the model can be asked."""
    name = packaged(Path(str(chat.model.config.name_or_path)))
    if name:
        return OF_PACKAGED[name]
    if chat.processor.suggested_prompts:
        return f"Reads pages. It knows these questions best: {' | '.join(chat.processor.suggested_prompts)}"
    if hasattr(chat.processor, "post_process_grounding"):
        return "Ask about pictures, what is written in them, charts and tables, or where something is."
    return "Ask about pictures, what is written in them, and charts."


def figures_of(found: Figures) -> str:
    """How fast an answer came, and how it ended if not by itself."""
    tokens = f"{found.new_tokens} token{'s' if found.new_tokens > 1 else ''}"
    line = f"{tokens}, the first after {found.seconds_to_first_token:.2f} s"
    if found.new_tokens > 2:
        line += f", then {found.tokens_per_second:.1f} per second"
    if found.ended == "eos":
        return line
    return f"{line}; {'stopped' if found.ended == 'stopped' else 'cut off at its greatest length'}"


def fill_of(found: Figures, context: int) -> str:
    """How much of the context, in tokens, the conversation fills with its last answer."""
    share = (found.prompt_tokens + found.new_tokens) / context
    line = f"The context is {share:.0%} full; {found.kept_tokens} of {found.prompt_tokens} prompt tokens were known"
    if found.dropped_turns:
        line += f"; the oldest questions ({found.dropped_turns}) no longer fit and were left out"
    return line


def facts_of(chat: Chat) -> str:
    """The model, as Markdown."""
    model = chat.model
    number = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        type(model).__name__,
        f"{number / 1e9:.2f} billion parameters" if number >= 1e8 else f"{number / 1e6:.1f} million parameters",
        f"{str(model.dtype).removeprefix('torch.')} on {model.device}",
        f"context of {chat.context} tokens",
    ]
    if any(map(has_4_bits, model.parameters())):
        lines.append("4-bit language model")
    return "\n".join(f"* {line}" for line in lines)
