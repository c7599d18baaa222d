"""What the models return."""

from dataclasses import dataclass

import torch
from transformers import Cache
from transformers.modeling_outputs import ModelOutput


@dataclass
class MultimodalModelOutputWithPast(ModelOutput):
    """Output of a model without a language modeling head.

    Attributes:
        last_hidden_state: [batch, sequence, width].
        past_key_values: the cache, if one was used.
        hidden_states: per layer [batch, sequence, width], on request.
        attentions: per layer [batch, heads, sequence, keys], on request.
        image_hidden_states: [images, tokens, width], or one [tokens, width] per image: what was put at the image
            places; None for text alone.
        router_logits: per layer with experts [tokens, experts], on request; other families have none.
    """

    last_hidden_state: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    image_hidden_states: torch.Tensor | list[torch.Tensor] | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class MultimodalCausalLMOutputWithPast(ModelOutput):
    """Output of a model with a language modeling head.

    Attributes:
        loss: scalar cross entropy of the next token, if labels were given.
        logits: [batch, kept positions, vocabulary].
        past_key_values: the cache, if one was used.
        hidden_states: per layer [batch, sequence, width], on request.
        attentions: per layer [batch, heads, sequence, keys], on request.
        image_hidden_states: [images, tokens, width], or one [tokens, width] per image: what was put at the image
            places; None for text alone.
        router_logits: per layer with experts [tokens, experts], on request; other families have none.
        aux_loss: scalar, how unevenly experts are chosen, times its coefficient; part of the loss, where there are
            labels and `router_logits`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    image_hidden_states: torch.Tensor | list[torch.Tensor] | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None
    aux_loss: torch.Tensor | None = None
