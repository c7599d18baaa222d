"""A key/value cache that grows in place."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

# Places that are made beyond those needed: the cache is copied once for so many tokens.
PLACES = 64
# A CPU's memory is taken when it is first written to. Copies are to be rare there, because the system's allocator fills
# the gaps between the old ones badly: a conversation could take twice its size.
CPU_PLACES = 512


@dataclass
class Room:
    """Memory for keys or values, and how much of it is given out.

    Attributes:
        whole: [batch, heads, places, width].
        filled: its beginning, as the layer has it. Behind it nobody has looked yet.
    """

    whole: torch.Tensor
    filled: torch.Tensor


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, with room after them: a new token is written there, and nothing else is moved.

    transformers' `DynamicLayer` copies all keys and values for each token. Behind 2000 tokens of DeepSeek-VL 7B that
    takes longer than reading the layer's weights in 4 bits; more than 32 MB are asked of the system each time.

    What was handed out once is never written to. So whoever cuts the cache back, reorders it or puts other tensors in
    its place has it copied once with the next token, as `DynamicLayer` does with each. With gradients enabled, and in
    compiled code, it is always done as there.

    Attributes:
        keys, values: [batch, heads, tokens, width], not contiguous: the beginnings of larger tensors.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rooms: dict[str, Room] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends [batch, heads, new tokens, width] each; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        # Gradients: attention saves keys even where they need none, and in-place writing would invalidate them.
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if plain or not (_alike(self.keys, key_states) and _alike(self.values, value_states)):
            self._rooms = {}
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys, self.values = self._append("keys", key_states), self._append("values", value_states)
        return self.keys, self.values

    def _append(self, name: str, states: torch.Tensor) -> torch.Tensor:
        old: torch.Tensor = getattr(self, name)
        length = old.shape[-2] if old.numel() else 0
        end = length + states.shape[-2]
        room = self._rooms.get(name)
        own = room is not None and room.filled is old
        if room is None or not own or end > room.whole.shape[-2] or _is_frozen(room.whole):
            # Tensors that others put here, such as reordered beams, will be replaced again soon.
            spare = CPU_PLACES if states.device.type == "cpu" and (own or not length) else PLACES
            whole = states.new_empty(*states.shape[:2], end + spare, states.shape[-1])
            if length:
                whole[:, :, :length] = old
            room = self._rooms[name] = Room(whole, old)
        room.whole[:, :, length:end] = states
        room.filled = room.whole[:, :, :end]
        return room.filled

    def cut_back(self, tokens: int) -> None:
        """Takes tokens off the end, and lets the next ones be written over them, although they were handed out once.

        For those who have the cache for themselves.
        """
        own = {name: room for name, room in self._rooms.items() if room.filled is getattr(self, name)}
        self.crop(-tokens)
        for name, room in own.items():
            rest: torch.Tensor = getattr(self, name)
            if rest.numel():  # else another batch may begin
                room.filled = rest

    def reset(self) -> None:
        """Empties the layer and gives its memory back."""
        self._rooms = {}
        super().reset()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Sorts beams anew, for beam search."""
        self._rooms = {}
        super().reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row of the batch."""
        self._rooms = {}
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps some rows of the batch."""
        self._rooms = {}
        super().batch_select_indices(indices)


def _alike(old: torch.Tensor, states: torch.Tensor) -> bool:
    """Whether states continue what is there; where they do not, transformers' layer converts, or says what is wrong."""
    if not old.numel():
        return True
    same = old.dtype == states.dtype and old.device == states.device
    return same and old.shape[:2] == states.shape[:2] and old.shape[3:] == states.shape[3:]


def _is_frozen(tensor: torch.Tensor) -> bool:
    """Tensors of the inference mode cannot be written to outside of it."""
    return tensor.is_inference() and not torch.is_inference_mode_enabled()


def grow_in_place(cache: Cache) -> None:
    """Makes the layers of a cache that are transformers' plain ones, and still empty, grow in place from here on."""
    if not cache.offloading:
        cache.layers = [GrowingLayer() if _is_plain(layer) else layer for layer in cache.layers]


def _is_plain(layer: Any) -> bool:
    return type(layer) is DynamicLayer and not layer.is_initialized


def growing_cache(config: Any) -> Cache:
    """An empty cache for the model of a text config."""
    cache = DynamicCache(config=config)
    grow_in_place(cache)
    return cache
