"""The steps of which every family's `forward` consists, besides its towers and its language model."""

from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..hf.outputs import MultimodalCausalLMOutputWithPast, MultimodalModelOutputWithPast
from ..hf.versions import CACHE
from .checks import check_exactly_one, warn_of_images_left_out, warn_of_slow_type
from .fusion import image_token_mask, insert_image_embeds

# Of labels, as of torch's cross entropy.
IGNORED = -100


def embed_inputs(
    model: Any,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    image_features: BaseModelOutputWithPooling | None,
    cache: Any,
) -> torch.Tensor:
    """Embeds the tokens and puts the image embeddings at the image places.

    Args:
        model: has the token embedding and `config.image_token_id`.
        input_ids: [batch, sequence], or None.
        inputs_embeds: [batch, sequence, hidden], or None.
        image_features: what `get_image_features` gives; None for text alone.
        cache: that of earlier tokens, after which image places may have been filled before.

    Returns:
        [batch, sequence, hidden].

    Raises:
        ValueError: both or none of the two inputs, or another number of image places than of image tokens.
    """
    check_exactly_one(input_ids, inputs_embeds)
    warn_of_images_left_out(model.config, input_ids, image_features, cache)
    embed_tokens = model.get_input_embeddings()
    embeds = embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
    warn_of_slow_type(model.config, embeds)
    if image_features is None:
        return embeds
    mask = image_token_mask(input_ids, embeds, embed_tokens, model.config.image_token_id)
    return insert_image_embeds(embeds, image_features.pooler_output, mask)


def with_use_cache(use_cache: bool | None, labels: torch.Tensor | None) -> bool | None:
    """Whether to return a cache, where nothing is asked for: not beside labels.

    Training has no use for one, and where there is one, transformers' masks let packed sequences see each other.
    """
    return False if use_cache is None and labels is not None else use_cache


def model_output(outputs: Any, image_features: BaseModelOutputWithPooling | None) -> MultimodalModelOutputWithPast:
    """The language model's output, with the image embeddings beside it."""
    return MultimodalModelOutputWithPast(
        last_hidden_state=outputs.last_hidden_state,
        cache=getattr(outputs, CACHE),
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
        image_outputs=image_features,
        router_logits=getattr(outputs, "router_logits", None),
    )


def head_output(
    model: Any,
    outputs: Any,
    labels: torch.Tensor | None,
    logits_to_keep: int | torch.Tensor,
    kwargs: dict[str, Any],
) -> MultimodalCausalLMOutputWithPast:
    """Logits of the kept positions, and the loss if there are labels.

    Args:
        model: has `lm_head`, `loss_function` and the config.
        outputs: of the model without the head.
        labels: [batch, sequence], not shifted; -100 is left out. With a number or one axis of positions, those of the
            kept positions.
        logits_to_keep: how many last positions get logits (0: all), a 1-D tensor of positions or mask of them, or a
            mask [batch, sequence], whose positions become one axis: logits are then [positions, vocabulary], and the
            loss falls on what follows these positions alone.
        kwargs: for the loss, such as `num_items_in_batch`.
    """
    kept: Any = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    masked = isinstance(kept, torch.Tensor) and kept.dtype == torch.bool and kept.ndim == 2
    if masked and labels is not None:
        shifted = kwargs.get("shift_labels")
        next_labels = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:] if shifted is None else shifted
        kwargs = {**kwargs, "shift_labels": next_labels[kept]}
    logits = model.lm_head(outputs.last_hidden_state[kept] if masked else outputs.last_hidden_state[:, kept])
    loss = None
    if labels is not None:
        loss = model.loss_function(logits, labels, vocab_size=model.config.text_config.vocab_size, **kwargs)
    return MultimodalCausalLMOutputWithPast(
        loss=loss,
        logits=logits,
        cache=outputs.cache,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
        image_outputs=outputs.image_outputs,
        router_logits=outputs.router_logits,
    )


def with_balance_loss(
    model: Any,
    output: MultimodalCausalLMOutputWithPast,
    labels: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    kwargs: dict[str, Any],
) -> MultimodalCausalLMOutputWithPast:
    """The same output, its loss with the auxiliary one of experts, where routers' logits were asked for beside labels.

    Args:
        model: has a language model with experts.
        output: of `head_output`.
        labels: [batch, sequence].
        attention_mask: [batch, sequence].
        position_ids: [batch, sequence].
        kwargs: for the loss, such as `num_items_in_batch`.
    """
    if output.router_logits is not None and labels is not None and output.loss is not None:
        output.aux_loss = model.model.language_model.balance_loss(
            output.router_logits, labels, attention_mask, position_ids, kwargs.get("num_items_in_batch")
        )
        output.loss = output.loss + output.aux_loss.to(output.loss.device)
    return output
