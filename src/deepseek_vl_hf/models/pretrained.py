"""What all families' models have in common."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..hf.attention import SDPA_BY_DEVICE, prefer_attention
from ..hf.model import HfModel, LoadedWeights
from .rotary import float32_rotary_tables
from .weights import (
    bytes_packed,
    check_can_be_moved,
    check_can_be_saved,
    check_loaded,
    check_quantization_config,
    has_4_bits,
)


class MultimodalPreTrainedModel(HfModel):
    """The capabilities that all families have; a family adds its config."""

    base_model_prefix = "model"
    input_modalities = ("image", "text")
    _image_batch_size = 8

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        prefer_attention(config.text_config, SDPA_BY_DEVICE)
        super().__init__(config, *args, **kwargs)

    @property
    def image_batch_size(self) -> int:
        """How many images (DeepSeek-VL2: tiles) the towers read at once; more of them are encoded in such chunks.

        A setting of the running model, which is not saved. The results are the same; memory is not.

        Raises:
            ValueError: when it is set to less than 1.
        """
        return self.base_model._image_batch_size

    @image_batch_size.setter
    def image_batch_size(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"image_batch_size is {size}; expected at least 1.")
        self.base_model._image_batch_size = size

    @classmethod
    def from_pretrained(cls, *args: Any, strict: bool = True, **kwargs: Any) -> Any:
        """As in transformers, but a checkpoint that does not add up is refused.

        transformers fills the places of missing tensors with random numbers and leaves out what it has no place for.

        Args:
            *args: see transformers' `PreTrainedModel.from_pretrained`.
            strict: whether every tensor must have its place, and every place its tensor. With False, missing ones begin
                random, as is right for a new head, and others are left out. Callers who ask for
                `output_loading_info=True` get the lists and judge by themselves, as if it were False.
            **kwargs: see transformers.

        Raises:
            ValueError: tensors are missing, left over, of another shape, no numbers, or stored twice; a file is
                damaged, or an index and its files disagree; `quantization_config` is a string, or a dict with a string
                for its recipe, as older model cards and configs have it; or the checkpoint is quantized, and its own
                config was replaced by None.
            FileNotFoundError: an index names a file that is absent.
        """
        check_quantization_config(kwargs.get("quantization_config"))
        strict = strict and not kwargs.get("output_loading_info", False)
        result = super().from_pretrained(*args, strict=strict, **kwargs)
        model = result[0] if isinstance(result, tuple) else result
        if model.can_generate():
            model.name_special_ids()
        return result

    def check_loaded(self, found: LoadedWeights) -> None:
        """See `HfModel.check_loaded`.

        Raises:
            ValueError: see `from_pretrained`.
        """
        check_loaded(found)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of all parameters and, unless told otherwise, buffers; those of 4-bit weights as they are packed."""
        packed = list(filter(has_4_bits, self.parameters()))
        unpacked = sum(weight.nelement() * weight.element_size() for weight in packed)
        return int(super().get_memory_footprint(return_buffers)) - unpacked + sum(map(bytes_packed, packed))

    @contextmanager
    def while_moving(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Refuses moves that packed weights cannot take, before anything is moved; see `HfModel.while_moving`."""
        check_can_be_moved(self, fn)
        with float32_rotary_tables(self):
            yield

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Saves as transformers does, always in the transformers layout and under the short weight names.

        transformers would write the names that the checkpoint was read with, such as the original's, or the published
        `model.vision_model.vision_model.*`.

        Raises:
            ValueError: `save_original_format=True`, of which transformers would make names that nothing reads; or
                `state_dict`, or a part of a model, where weights have 4 bits.
            RuntimeError: the weights were prepacked.
        """
        check_can_be_saved(self, kwargs.get("state_dict"))
        if kwargs.get("save_original_format"):
            raise ValueError(
                "Found save_original_format=True; expected it to be left out. For the original layout save the model, "
                "then run `deepseek-vl convert --to original SRC DST`."
            )
        kwargs["save_original_format"] = bool(self.stored_conversions())
        super().save_pretrained(save_directory, *args, **kwargs)
