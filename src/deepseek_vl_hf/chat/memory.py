"""What a conversation keeps between turns: the key/value cache, and the embeddings of its pictures.

The cache holds a prompt's tokens up to some place. For the next prompt it is cut back to what both have in common, and
only the rest is read. Images are told apart by a number each, because all image places hold the same token.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..hf.cache import growing_cache

# Tokens that are read at once. Between such pieces an answer can be stopped, and progress is told.
PIECE = 512

_numbers = itertools.count()

# Called with the tokens read and all that are to be read; returns whether to go on.
ReadProgress = Callable[[int, int], bool]


@dataclass(frozen=True)
class EncodedImage:
    """A picture as the language model reads it.

    Attributes:
        embeds: [tokens, hidden].
        number: tells it from other pictures.
    """

    embeds: torch.Tensor
    number: int = field(default_factory=lambda: next(_numbers))

    def __len__(self) -> int:
        """Places that it takes in a prompt."""
        return len(self.embeds)


class Memory:
    """The key/value cache of a conversation, and which tokens lie in it.

    Args:
        model: one of the package's generation models.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.cache = growing_cache(self.model.config.get_text_config())
        self._keys: list[Any] = []

    def __len__(self) -> int:
        """Tokens that are in the cache."""
        return len(self._keys)

    @torch.no_grad()
    def read(self, ids: Sequence[int], images: Sequence[EncodedImage], progress: ReadProgress) -> int:
        """Brings the cache to a prompt, all but a last piece of text, which `generate` reads.

        Args:
            ids: the prompt's tokens.
            images: its pictures, in the order of their places.
            progress: called before each piece; reading stops when it says so.

        Returns:
            How many tokens the cache held already.
        """
        keys = self._keys_of(ids, images)
        kept = min(_common_length(self._keys, keys), len(ids) - 1)
        self._crop(kept)
        pieces = _pieces(keys, kept)
        for start, end in pieces:
            if not progress(start - kept, len(ids) - kept):
                break
            self._read(ids, keys, images, start, end)
        return kept

    def noted(self, ids: Sequence[int], images: Sequence[EncodedImage]) -> None:
        """Notes what `generate` added to the cache; forgets all if that is not one token after the other.

        Args:
            ids: prompt and answer; the last token of an answer is not read by `generate`.
            images: those of the prompt.
        """
        length = self.cache.get_seq_length()
        lengths = {layer.keys.shape[-2] for layer in self.cache.layers}
        if lengths != {length} or not len(ids) - 1 <= length <= len(ids):
            self.clear()
            return
        self._keys = self._keys_of(ids, images)[:length]

    def _read(self, ids: Sequence[int], keys: list[Any], images: Sequence[EncodedImage], start: int, end: int) -> None:
        inside = {key[0] for key in keys[start:end] if isinstance(key, tuple)}
        embeds = [image.embeds for image in images if image.number in inside]
        encoded = {"image": BaseModelOutputWithPooling(pooler_output=embeds)} if embeds else None
        try:
            self.model.base_model(
                input_ids=torch.tensor([ids[start:end]], device=self.model.device),
                cache=self.cache,
                mm_encoder_outputs=encoded,
                use_cache=True,
            )
        except BaseException:  # Ctrl-C too: the layers may hold different numbers of tokens
            self.clear()
            raise
        self._keys = keys[:end]

    def _crop(self, length: int) -> None:
        excess = self.cache.get_seq_length() - length
        try:
            if excess:
                for layer in self.cache.layers:
                    layer.cut_back(excess)
        except BaseException:  # see _read
            self.clear()
            raise
        self._keys = self._keys[:length]

    def _keys_of(self, ids: Sequence[int], images: Sequence[EncodedImage]) -> list[Any]:
        """What tells a place from others: its token, or the image's number and the place within it."""
        places = ((image.number, place) for image in images for place in range(len(image)))
        image_token = self.model.config.image_token_id
        # An answer may hold the image token as well, by a whim of the model; there is no place left for it then.
        return [next(places, token) if token == image_token else token for token in ids]


def _common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(first), len(second)))


def _pieces(keys: Sequence[Any], start: int) -> list[tuple[int, int]]:
    """What is to be read apart from `generate`: pieces that cut through no image, up to the last image at least.

    What is left behind them is text, at least one token and at most a piece.
    """
    last_image = max((place + 1 for place, key in enumerate(keys) if isinstance(key, tuple)), default=0)
    end = max(last_image, len(keys) - PIECE)
    pieces = []
    while start < end:
        stop = min(start + PIECE, end)
        while stop < end and isinstance(keys[stop], tuple) and keys[stop][1]:  # within an image
            stop += 1
        pieces.append((start, stop))
        start = stop
    return pieces
