"""transformers' interface of experts: what dispatches a layer's experts to one of several implementations."""

from collections.abc import Callable
from typing import Any

from transformers.integrations import use_experts_implementation
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

__all__ = ["experts_function", "experts_of", "is_registered", "use_experts_implementation"]


def is_registered(name: str) -> bool:
    """Whether transformers knows an implementation of experts by this name."""
    return name in ALL_EXPERTS_FUNCTIONS


def experts_of(config: Any) -> str | None:
    """The name of the implementation that a config asks for."""
    return config._experts_implementation


def experts_function(name: str) -> Callable[..., Any]:
    """The function behind a name."""
    return ALL_EXPERTS_FUNCTIONS[name]
