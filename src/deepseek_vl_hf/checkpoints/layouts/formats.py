"""What the conversion has to know of one original layout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from ...models.families import Family
from .files import IMAGES
from .rules import Rule, Shape

JsonObject = dict[str, Any]


def parameter_shapes(model: nn.Module) -> dict[str, Shape]:
    """Names and shapes of the model's tensors, as its files hold them."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class PromptFormat:
    """What an original processor takes for granted.

    Attributes:
        chat_template: its format of conversations, as Jinja text.
        image_token: what stands for an image where processor_config.json names nothing.
        image_token_key: under which processor_config.json names it.
        added_tokens: special tokens that it adds to vocabularies that lack them, in this order, beside the image token,
            by their names as attributes of the tokenizer.
        default_vocabulary: size of a vocabulary of which config.json says nothing.
        token_ids: special ids of the published checkpoints by the size of their vocabulary, for a config that comes
            without files.
    """

    chat_template: str
    image_token: str
    image_token_key: str
    added_tokens: dict[str, str]
    default_vocabulary: int
    token_ids: dict[int, dict[str, int]]


@dataclass(frozen=True)
class OriginalFormat:
    """One original layout, in both directions.

    Attributes:
        description: what the layout is, for errors.
        model_type: of its config.json.
        prompts: what its processor takes for granted.
        family: the classes that the result is written for.
        rules: the table of its tensors.
        describes: whether a config.json is of this layout.
        read_config: config.json and the tokenizer's ids -> the model's config.
        images_file: the file with the settings of the image processor.
        read_image_processor: that file and config.json -> the image processor.
        read_processor: processor_config.json and the model's config -> the processor's arguments.
        write_config: the model's config and the image processor -> config.json.
        write_image_processor: the image processor -> the file with its settings.
        write_processor: the processor -> processor_config.json, without the settings of the image processor.
        stored_shapes: names and shapes of the model's tensors in files of the transformers layout.
    """

    description: str
    model_type: str
    prompts: PromptFormat
    family: Family
    rules: tuple[Rule, ...]
    describes: Callable[[JsonObject], bool]
    read_config: Callable[[JsonObject, dict[str, int]], PreTrainedConfig]
    read_image_processor: Callable[[JsonObject, JsonObject], BaseImageProcessor]
    read_processor: Callable[[JsonObject, PreTrainedConfig], JsonObject]
    write_config: Callable[[PreTrainedConfig, BaseImageProcessor], JsonObject]
    write_image_processor: Callable[[BaseImageProcessor], JsonObject]
    write_processor: Callable[[ProcessorMixin], JsonObject]
    images_file: str = IMAGES
    stored_shapes: Callable[[nn.Module], dict[str, Shape]] = parameter_shapes
