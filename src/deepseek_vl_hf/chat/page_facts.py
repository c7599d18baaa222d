"""What the page says of a model and of its answers."""

from pathlib import Path

from ..models.weights import has_4_bits
from ..nano.folder import is_nano
from .figures import Figures
from .session import Chat


def abilities_of(chat: Chat) -> str:
    """One line on what the model can be asked."""
    if is_nano(Path(str(chat.model.config.name_or_path))):
        return (
            "A small model that knows drawn pictures: shapes and their colors, printed capitals and digits, bar "
            "charts. It has never seen a photograph."
        )
    if hasattr(chat.processor, "post_process_grounding"):
        return "Ask about pictures, what is written in them, charts and tables, or where something is."
    return "Ask about pictures, what is written in them, and charts."


def figures_of(found: Figures, context: int) -> str:
    """How an answer came about, and how much of the context, in tokens, the conversation fills."""
    lines = [
        f"{found.new_tokens} tokens, the first after {found.seconds_to_first_token:.2f} s",
        f"{found.tokens_per_second:.1f} tokens per second after it",
        f"{found.kept_tokens} of {found.prompt_tokens} prompt tokens were known",
        f"the context is {(found.prompt_tokens + found.new_tokens) / context:.0%} full",
    ]
    if found.ended != "eos":
        lines.append("stopped" if found.ended == "stopped" else "cut off at its greatest length")
    if found.dropped_turns:
        lines.append(f"the oldest turns ({found.dropped_turns}) no longer fit and were left out")
    return "; ".join(lines)


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
