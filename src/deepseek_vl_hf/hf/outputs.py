"""What the models return: transformers' outputs, with what pictures and experts add, alike in every release.

From transformers 5.24 on its outputs hold the cache as `cache` and answer to `past_key_values` as well. The ones here
answer to both names in earlier releases, too.
"""

import functools
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)

from .versions import CACHE, one_cache

Output = TypeVar("Output")


class CacheUnderBothNames:
    """Makes an output of an earlier release answer to `cache`; where the library does so itself, nothing is added."""

    if CACHE == "past_key_values":

        @property
        def cache(self) -> Any:
            """The cache, if one was used."""
            return self.past_key_values

        @cache.setter
        def cache(self, cache: Any) -> None:
            self.past_key_values = cache

        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__(_old(key))  # type: ignore[misc]

        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(_old(key), value)  # type: ignore[misc]

        def __contains__(self, key: Any) -> bool:
            return super().__contains__(_old(key))  # type: ignore[misc]

        def get(self, key: Any, default: Any = None) -> Any:
            """As of a dict."""
            return super().get(_old(key), default)  # type: ignore[misc]


def _old(key: Any) -> Any:
    return "past_key_values" if key == "cache" else key


def takes_both_names(output: type[Output]) -> type[Output]:
    """Lets the constructor of an output take the cache under either name."""
    if CACHE == "cache":
        return output
    init = output.__init__

    @functools.wraps(init)
    def renaming_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **one_cache(kwargs))

    output.__init__ = renaming_init  # type: ignore[method-assign]
    return output


class ImageOutputs(CacheUnderBothNames):
    """What outputs with `image_outputs` have in common."""

    image_outputs: BaseModelOutputWithPooling | None

    @property
    def image_hidden_states(self) -> torch.Tensor | list[torch.Tensor] | None:
        """[images, tokens, width], or one [tokens, width] per image: what was put at the image places."""
        return None if self.image_outputs is None else self.image_outputs.pooler_output

    def to_tuple(self) -> tuple[Any, ...]:
        """All that is not None; `image_outputs` is a tuple in it, as in transformers' own models."""
        values = ((name, self[name]) for name in self.keys())  # type: ignore[attr-defined]
        return tuple(value.to_tuple() if name == "image_outputs" else value for name, value in values)


@takes_both_names
@dataclass
class MultimodalModelOutputWithPast(ImageOutputs, BaseModelOutputWithPast):
    """Output of a model without a language modeling head.

    Attributes:
        last_hidden_state: [batch, sequence, width].
        cache: the keys and values of all tokens so far, if a cache was used; `past_key_values` is the same.
        hidden_states: per layer [batch, sequence, width], on request.
        attentions: per layer [batch, heads, sequence, keys], on request.
        image_outputs: what `get_image_features` gave; None for text alone. `image_hidden_states` is its
            `pooler_output`.
        router_logits: per layer with experts [tokens, experts], on request; other families have none.
    """

    image_outputs: BaseModelOutputWithPooling | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@takes_both_names
@dataclass
class MultimodalCausalLMOutputWithPast(ImageOutputs, CausalLMOutputWithPast):
    """Output of a model with a language modeling head.

    Attributes:
        loss: scalar cross entropy of the next token, if labels were given.
        logits: [batch, kept positions, vocabulary].
        cache: the keys and values of all tokens so far, if a cache was used; `past_key_values` is the same.
        hidden_states: per layer [batch, sequence, width], on request.
        attentions: per layer [batch, heads, sequence, keys], on request.
        image_outputs: what `get_image_features` gave; None for text alone. `image_hidden_states` is its
            `pooler_output`.
        router_logits: per layer with experts [tokens, experts], on request; other families have none.
        aux_loss: scalar, how unevenly experts are chosen, times its coefficient; part of the loss, where there are
            labels and `router_logits`.
    """

    image_outputs: BaseModelOutputWithPooling | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None
    aux_loss: torch.Tensor | None = None


@takes_both_names
@dataclass
class LanguageModelOutput(CacheUnderBothNames, BaseModelOutputWithPast):
    """Output of a language model without its head; see transformers' `BaseModelOutputWithPast`.

    Attributes:
        router_logits: per layer with experts [tokens, experts], on request.
    """

    router_logits: tuple[torch.Tensor, ...] | None = None


@takes_both_names
@dataclass
class GeneratedTokens(CacheUnderBothNames, GenerateDecoderOnlyOutput):
    """What `generate(return_dict_in_generate=True)` gives; see transformers' `GenerateDecoderOnlyOutput`."""


@takes_both_names
@dataclass
class GeneratedBeams(CacheUnderBothNames, GenerateBeamDecoderOnlyOutput):
    """What it gives with several beams; see transformers' `GenerateBeamDecoderOnlyOutput`."""


def with_both_names(generated: Any) -> Any:
    """What `generate` gave, answering to both names of the cache."""
    if CACHE == "cache":  # the library's own do
        return generated
    ours = {GenerateDecoderOnlyOutput: GeneratedTokens, GenerateBeamDecoderOnlyOutput: GeneratedBeams}
    return ours[type(generated)](**generated) if type(generated) in ours else generated
