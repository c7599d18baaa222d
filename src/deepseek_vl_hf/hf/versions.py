"""Which releases of transformers are admitted, and what differs between them."""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import transformers
from packaging.version import Version
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

INSTALLED = Version(transformers.__version__)
# Both ends are tested, and every minor release between them (docs/compatibility.md). The end is not admitted.
ADMITTED = (Version("5.18"), Version("5.25.dev0"))

# What transformers calls the cache in outputs, `forward` and the functions that make masks: `cache` from 5.24 on.
CACHE = "cache" if "cache" in {each.name for each in dataclasses.fields(BaseModelOutputWithPast)} else "past_key_values"
OTHER_CACHE = {"cache": "past_key_values", "past_key_values": "cache"}[CACHE]
# Before 5.24 continuous batching hands its paged cache, which is no `Cache`, through to the attention as `cache`.
# Within our models it has a name of its own.
PAGED = "paged_cache"
# How `TrainingArguments` call that layers are computed twice.
CHECKPOINTING = "activation_checkpointing" if INSTALLED.release >= (5, 24) else "gradient_checkpointing"
# Before 5.23 the loop for `generate(prefill_chunk_size=...)` drops the images without a word.
CHUNKED_PREFILL_READS_IMAGES = INSTALLED.release >= (5, 23)
# Before 5.23 a prompt with several images hands them to its beams in a wrong order.
BEAMS_MIX_IMAGES = INSTALLED.release < (5, 23)


def warn_if_untested() -> None:
    """Warns once of a transformers that was forced in beside the package's own requirement."""
    first, end = ADMITTED
    if not first <= INSTALLED < end:
        warnings.warn(
            f"Found transformers {INSTALLED}; deepseek_vl_hf is tested with {first} to {end.major}.{end.minor - 1}. "
            "Other releases may fail, or change the answers. Install one of these: "
            f"pip install 'transformers>={first},<{end.major}.{end.minor}'",
            stacklevel=3,
        )


def one_cache(kwargs: dict[str, Any], name: str = CACHE) -> dict[str, Any]:
    """Arguments with the cache under one of its names, whichever it came under.

    Raises:
        ValueError: two different caches, one under each name.
    """
    given = {key: kwargs[key] for key in (CACHE, OTHER_CACHE) if kwargs.get(key) is not None}
    if len(given) == 2 and given[CACHE] is not given[OTHER_CACHE]:
        raise ValueError("Found two caches, as cache and as past_key_values, which are one argument. Pass one of them.")
    rest = {key: value for key, value in kwargs.items() if key not in (CACHE, OTHER_CACHE)}
    return {**rest, name: next(iter(given.values()))} if given else rest


def cache_under_both_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """For a function with an argument `cache`, which then also comes as `past_key_values`, in every release."""

    @functools.wraps(function)
    def wrapper(*args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        if CACHE != "cache" and not isinstance(kwargs.get("cache"), Cache | None):
            kwargs[PAGED] = kwargs.pop("cache")
        if past_key_values is not None:
            kwargs = one_cache({**kwargs, "past_key_values": past_key_values}, "cache")
        return function(*args, **kwargs)

    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    before_kwargs = next((place for place, each in enumerate(parameters) if each.kind is each.VAR_KEYWORD), None)
    old_name = inspect.Parameter("past_key_values", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters.insert(len(parameters) if before_kwargs is None else before_kwargs, old_name)
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # transformers reads it
    return wrapper


def with_cache(cache: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments for a model or layer of transformers: the cache under the name that it has there, and all others."""
    named = {"cache" if name == PAGED else name: value for name, value in kwargs.items()}
    return {**named, CACHE: cache} if CACHE not in named else named
