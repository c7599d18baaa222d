"""The base class of all models here: what transformers asks of every model, in one place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .loading import loading, patterns_ignored_now


class HfModel(PreTrainedModel):
    """A `PreTrainedModel` whose hooks have public names.

    transformers calls `_init_weights`, torch `_apply`; a subclass overrides `init_own_weights` and `while_moving`.
    The class attributes with an underscore are transformers' contract with every model. `_no_split_modules`,
    `_tied_weights_keys` and `_tp_plan` name a model's own layers, so subclasses set them.
    """

    supports_gradient_checkpointing = True
    # Whether layers of it dispatch through the experts interface.
    has_experts = False
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def init_own_weights(self, module: nn.Module) -> None:
        """Fills a module's fresh parameters, for training from scratch, where transformers' rules know no better."""

    @contextmanager
    def while_moving(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Active while `fn` is applied to all tensors, as `to`, `half` or `cuda` do."""
        yield

    @classmethod
    def stored_conversions(cls) -> list[Any]:
        """How tensors in files become those in memory, in files of the transformers layout; saving turns it round."""
        return []

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """See transformers' `PreTrainedModel.from_pretrained`."""
        with loading(cls):
            result = super().from_pretrained(*args, **kwargs)
        (result[0] if isinstance(result, tuple) else result)._forget_names_in_files()
        return result

    def post_init(self) -> None:
        """See transformers; while a checkpoint is loaded, names that are left aside on purpose need no warning."""
        super().post_init()
        self._keys_to_ignore_on_load_unexpected |= patterns_ignored_now(type(self))
        self._forget_names_in_files()

    def _forget_names_in_files(self) -> None:
        """Has the model saved in the transformers layout, under its own names, whatever it was read from.

        transformers would turn the conversions round with which it was loaded. Of the originals' it makes names that
        nothing reads, because the turned patterns also catch other layers.
        """
        self._weight_conversions: Any = self.stored_conversions()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        self.init_own_weights(module)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        with self.while_moving(fn):
            return super()._apply(fn, recurse)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # transformers would look into the source of the class's module

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return cls.has_experts  # the same
