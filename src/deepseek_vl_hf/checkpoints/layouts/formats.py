"""What the conversion has to know of one original layout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

from ...auto import Family
from .rules import Rule

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class OriginalFormat:
    """One original layout, in both directions.

    Attributes:
        description: what the layout is, for errors.
        family: the classes that the result is written for.
        rules: the table of its tensors.
        describes: whether a config.json is of this layout.
        read_config: config.json and the tokenizer's ids -> the model's config.
        read_image_processor: preprocessor_config.json and config.json -> the image processor.
        write_config: the model's config and the image processor -> config.json.
        write_image_processor: the image processor -> preprocessor_config.json.
    """

    description: str
    family: Family
    rules: tuple[Rule, ...]
    describes: Callable[[JsonObject], bool]
    read_config: Callable[[JsonObject, dict[str, int]], PreTrainedConfig]
    read_image_processor: Callable[[JsonObject, JsonObject], BaseImageProcessor]
    write_config: Callable[[PreTrainedConfig, BaseImageProcessor], JsonObject]
    write_image_processor: Callable[[BaseImageProcessor], JsonObject]
