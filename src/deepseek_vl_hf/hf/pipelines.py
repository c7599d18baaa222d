"""Pipelines whose batches keep every picture.

transformers joins what `preprocess` gave for each chat of a batch: `pixel_values` along the pictures, and of other
tensors it takes the first row alone. It also refuses batches in which one chat has pictures and another has none. So
pictures of our processors travel as lists, which it leaves alone, and become tensors again in front of the model. With
other processors these pipelines are transformers' own.
"""

from collections.abc import Iterator
from typing import Any

import torch
import transformers

from .processors import HfProcessor


class _PicturesInLists:
    """Lists of tensors instead of tensors, between `preprocess` and the model."""

    processor: Any

    def preprocess(self, inputs: Any = None, **kwargs: Any) -> Any:
        """See transformers; the image processor's tensors are in lists, empty ones for a chat without pictures."""
        model_inputs = super().preprocess(inputs, **kwargs)  # type: ignore[misc]
        for name in self._names_of_pictures():
            model_inputs[name] = [model_inputs[name]] if name in model_inputs else []
        return model_inputs

    def _forward(self, model_inputs: Any, **kwargs: Any) -> Any:
        for name in self._names_of_pictures():
            tensors = list(_flat(model_inputs.pop(name)))
            if tensors:
                model_inputs[name] = torch.cat(tensors)
        return super()._forward(model_inputs, **kwargs)  # type: ignore[misc]

    def _names_of_pictures(self) -> list[str]:
        ours = isinstance(self.processor, HfProcessor)
        return list(self.processor.image_processor.model_input_names) if ours else []


def _flat(tensors: Any) -> Iterator[torch.Tensor]:
    if isinstance(tensors, torch.Tensor):
        yield tensors
    else:
        for each in tensors:
            yield from _flat(each)


class ImageTextToTextPipeline(_PicturesInLists, transformers.ImageTextToTextPipeline):
    """transformers' pipeline of that name, whose batches keep every picture."""


class AnyToAnyPipeline(_PicturesInLists, transformers.AnyToAnyPipeline):
    """transformers' pipeline of that name, whose batches keep every picture."""


PIPELINES: dict[str, type] = {"image-text-to-text": ImageTextToTextPipeline, "any-to-any": AnyToAnyPipeline}
