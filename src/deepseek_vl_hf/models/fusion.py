"""Putting image embeddings into the sequence of text embeddings."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import nn
from transformers.utils import torch_compilable_check


def image_token_mask(
    input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, embedding: nn.Module, image_token_id: int
) -> torch.Tensor:
    """Where the sequence holds image places.

    Without `input_ids` a place is recognized by its embedding, as `generate(inputs_embeds=...)` needs it.

    Args:
        input_ids: [batch, sequence], or None.
        inputs_embeds: [batch, sequence, width]; not read if there are `input_ids`.
        embedding: the language model's token embedding.
        image_token_id: id of the image place.

    Returns:
        bool [batch, sequence].
    """
    if input_ids is not None:
        return input_ids == image_token_id
    assert inputs_embeds is not None
    place = torch.full((), image_token_id, dtype=torch.long, device=inputs_embeds.device)
    return (inputs_embeds == embedding(place)).all(-1)


# [images, tokens, width], or one [tokens, width] per image.
ImageEmbeds: TypeAlias = torch.Tensor | Sequence[torch.Tensor]


def insert_image_embeds(inputs_embeds: torch.Tensor, image_embeds: ImageEmbeds, mask: torch.Tensor) -> torch.Tensor:
    """Replaces the embeddings of the image places, in order, by the image embeddings.

    Args:
        inputs_embeds: [batch, sequence, width].
        image_embeds: [images, tokens, width] (or any shape that ends in width), or one [tokens, width] per image, in
            the order of the places.
        mask: bool [batch, sequence], True at image places.

    Returns:
        [batch, sequence, width].

    Raises:
        ValueError: the number of places is not the number of image tokens.
    """
    joined = image_embeds if isinstance(image_embeds, torch.Tensor) else torch.cat(list(image_embeds))
    joined = joined.reshape(-1, inputs_embeds.shape[-1]).to(inputs_embeds.device, inputs_embeds.dtype)
    num_places, num_tokens = mask.sum(), joined.shape[0]
    torch_compilable_check(
        num_places == num_tokens,
        lambda: (
            f"The prompt has {int(num_places)} image places, but the images give {num_tokens} tokens. Each image needs "
            "as many places as it has tokens: build input_ids and pixel_values with one call of the processor, and do "
            "not truncate the prompt inside an image."
        ),
    )
    return inputs_embeds.masked_scatter(mask.unsqueeze(-1), joined)


def repeat_images_of_prompts(image_embeds: ImageEmbeds, places: Sequence[int], times: int) -> ImageEmbeds:
    """Repeats the images of each prompt as a group, as a batch is repeated for beams: A, B -> A, B, A, B.

    Args:
        image_embeds: [images, tokens, width], or one [tokens, width] per image, in the order of the prompts.
        places: image places per prompt.
        times: how often each prompt is repeated.

    Returns:
        The same kind, with `times` times as many images.

    Raises:
        ValueError: a prompt's places are not those of whole images, or the images are more or fewer.
    """
    counts = images_per_prompt([len(tokens) for tokens in image_embeds], places)
    groups = torch.arange(len(image_embeds)).split(counts)
    order = [number for group in groups for number in group.repeat(times).tolist()]
    return image_embeds[order] if isinstance(image_embeds, torch.Tensor) else [image_embeds[number] for number in order]


def images_per_prompt(lengths: Sequence[int], places: Sequence[int]) -> list[int]:
    """How many of the images fill the places of each prompt.

    Args:
        lengths: tokens of each image.
        places: image places of each prompt.

    Raises:
        ValueError: a prompt's places are not those of whole images, or the images are more or fewer.
    """
    counts, used = [], 0
    for number in places:
        count = 0
        while number > 0 and used + count < len(lengths):
            number -= lengths[used + count]
            count += 1
        counts.append(count)
        used += count
        if number:
            break
    if used != len(lengths) or len(counts) != len(places) or number:
        raise ValueError(
            f"The prompts have {list(places)} image places, but there are {len(lengths)} images of {list(lengths)} "
            "tokens. Build input_ids and pixel_values with one call of the processor."
        )
    return counts
