"""What TRL's `GRPOTrainer` and `RLOOTrainer` need of a processor and a model.

They have the processor prepare pictures, cut its tensors into batches, and hand on those that they know by name. Of
what the families but DeepSeek-VL read that is `pixel_values` alone. So the tensors of a picture become one row
of numbers under this name, which such a trainer takes for a picture, and the model takes apart.

    tensors of each picture --to_row--> pixel_values [images, numbers] --trainer--> rows --from_row--> the tensors
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature

from ..conversation.processor import ChatProcessor
from ..models.families import FAMILIES

FIELD = "pixel_values"
_NONE = torch.zeros(0)


def grpo_processor(processor: Any, *models: Any) -> Any:
    """A processor with which TRL's `GRPOTrainer` and `RLOOTrainer` train any of the families.

    Args:
        processor: of one of the families.
        *models: that read pictures as it gives them: the one to train and, with `beta` and without adapters,
            `trainer.ref_model` once the trainer is made. They read other inputs as before.

    Returns:
        What to give as `processing_class`. Saved, it is the processor.

    Raises:
        TypeError: the processor is none of this package.
        ValueError: a model holds none of this package.
    """
    if not isinstance(processor, ChatProcessor):
        raise TypeError(f"Found a {type(processor).__name__}; expected a processor of deepseek_vl_hf.")
    names = list(processor.image_processor.model_input_names)
    for model in models:
        _reading_model(model).register_forward_pre_hook(partial(_take_apart, names), with_kwargs=True)
    if isinstance(processor, GrpoProcessor):
        return processor
    base = type(processor)
    # By the name of the processor's own class, because files get it.
    of_grpo = type(base.__name__, (GrpoProcessor, base), {"__module__": base.__module__, "plain": processor})
    result: Any = object.__new__(of_grpo)
    result.__dict__ = processor.__dict__  # a template that is set on one is the other's too
    return result


class GrpoProcessor:
    """Mixed into a processor's class.

    Attributes:
        plain: the processor as it was. It belongs to the class: attributes of a processor are saved.
    """

    plain: ChatProcessor

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """See `ChatProcessor.__call__`; where there are several tensors of pictures, one row for each picture.

        The trainers call this for a forward.
        """
        inputs = self.plain(images=images, text=text, **kwargs)
        fields = {name: inputs[name] for name in self.plain.image_processor.model_input_names if name in inputs}
        if len(fields) > 1:
            names = self.plain.image_processor.model_input_names
            rows = pad_sequence([to_row(each) for each in _by_picture(self.plain, fields, names)], batch_first=True)
            inputs = BatchFeature({**{name: inputs[name] for name in inputs if name not in fields}, FIELD: rows})
        return inputs

    def apply_chat_template(self, conversation: Any, *args: Any, tokenize: bool = False, **kwargs: Any) -> Any:
        """See `ChatProcessor.apply_chat_template`; without `return_tensors` there are lists, as transformers has it.

        The trainers call this for `generate`, with prompts of any lengths, and pad them by themselves.
        """
        if tokenize and "return_tensors" not in kwargs:
            # The template's own argument is lost in older transformers where it is None.
            kwargs["processor_kwargs"] = {"return_tensors": None, **(kwargs.get("processor_kwargs") or {})}
        return self.plain.apply_chat_template(conversation, *args, tokenize=tokenize, **kwargs)

    def __reduce__(self) -> Any:
        return grpo_processor, (self.plain,)


def to_row(fields: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one after the other, each as: whether it holds whole numbers, how many axes, its shape, its numbers."""
    parts = []
    for field in fields:
        head = [not field.is_floating_point(), field.ndim, *field.shape]
        parts += [torch.tensor(head, dtype=torch.float32), field.flatten().float()]
    return torch.cat(parts)


def from_row(row: torch.Tensor, count: int) -> list[torch.Tensor]:
    """The `count` tensors of which `to_row` made a row; what stands after them is padding."""
    fields = []
    for _ in range(count):
        whole, axes = map(int, row[:2].tolist())
        shape = [int(side) for side in row[2 : 2 + axes].tolist()]
        numbers, row = row[2 + axes :].tensor_split([math.prod(shape)])
        fields.append(numbers.view(shape).long() if whole else numbers.view(shape))
    return fields


def _by_picture(
    processor: ChatProcessor, fields: dict[str, torch.Tensor], names: Sequence[str]
) -> list[list[torch.Tensor]]:
    """For each picture its part of each field, which is empty where it has none."""
    count = len(processor.num_tokens_of_images(fields))
    firsts = [processor.first_images(fields, number) for number in range(count + 1)]
    ends = {name: [len(first.get(name, ())) for first in firsts] for name in names}
    return [
        [fields.get(name, _NONE)[ends[name][number] : ends[name][number + 1]] for name in names]
        for number in range(count)
    ]


def _take_apart(names: list[str], module: nn.Module, args: Any, inputs: dict[str, Any]) -> Any:
    """Called with what a model gets; other inputs than rows are left as they are."""
    rows = inputs.get(FIELD)
    if rows is None or rows.ndim != 2:
        return None
    pictures = [from_row(row, len(names)) for row in rows]
    fields = dict(zip(names, zip(*pictures, strict=True), strict=True))
    parts = {name: [each for each in field if len(each)] for name, field in fields.items()}
    return args, {**inputs, **{name: torch.cat(field) for name, field in parts.items() if field}}


def _reading_model(model: Any) -> nn.Module:
    """The model without its head, wherever it lies inside of adapters and wrappers: some of these pass its hull by."""
    classes = tuple(family.model for family in FAMILIES)
    found = next((module for module in model.modules() if isinstance(module, classes)), None)
    if found is None:
        raise ValueError(f"Found no model of deepseek_vl_hf in {type(model).__name__}. Pass the one that is trained.")
    return found
