"""A key/value cache that grows in place."""

from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

# Places that are made at once. A cache takes at most so many more than it needs, and is copied once for so many tokens.
PLACES = 64


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, with room behind them: a new token is written there, and nothing else is moved.

    transformers' `DynamicLayer` copies all keys and values for each token. Behind 2000 tokens of DeepSeek-VL 7B that
    takes longer than reading the layer's weights in 4 bits; more than 32 MB are asked of the system each time.

    Attributes:
        keys, values: [batch, heads, tokens, width], as in `DynamicLayer`; the beginnings of larger tensors.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rooms: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends [batch, heads, new tokens, width] each; returns all keys and values."""
        learning = torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad)
        if learning or torch.compiler.is_compiling():
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = self._append("keys", key_states), self._append("values", value_states)
        return self.keys, self.values

    def _append(self, name: str, states: torch.Tensor) -> torch.Tensor:
        old: torch.Tensor = getattr(self, name)
        length = old.shape[-2] if old.numel() else 0
        end = length + states.shape[-2]
        room: torch.Tensor | None = self._rooms.get(name)
        if room is None or not length or end > room.shape[-2] or not _begins(old, room):
            room = self._rooms[name] = states.new_empty(*states.shape[:2], end + PLACES, states.shape[-1])
            if length:
                room[:, :, :length] = old
        room[:, :, length:end] = states
        return room[:, :, :end]

    def reset(self) -> None:
        """Empties the layer and gives its memory back."""
        self._rooms = {}
        super().reset()


def _begins(old: torch.Tensor, room: torch.Tensor) -> bool:
    """Whether a layer's tensor is (still) the beginning of the larger one, which may be written to."""
    same = old.data_ptr() == room.data_ptr() and old.stride() == room.stride() and old.shape[:2] == room.shape[:2]
    return same and (not room.is_inference() or torch.is_inference_mode_enabled())


def growing(cache: Cache) -> Cache:
    """The same cache, whose layers that are transformers' plain ones and still empty grow in place from here on."""
    if not cache.offloading:
        cache.layers = [GrowingLayer() if _is_plain(layer) else layer for layer in cache.layers]
    return cache


def _is_plain(layer: Any) -> bool:
    return type(layer) is DynamicLayer and not layer.is_initialized


def growing_cache(config: Any) -> Cache:
    """An empty cache for the model of a text config."""
    return growing(DynamicCache(config=config))
