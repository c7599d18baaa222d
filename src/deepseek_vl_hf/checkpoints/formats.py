"""What the conversion has to know of one original layout."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

from ..auto import Family
from .rules import Rule


@dataclass(frozen=True)
class OriginalFormat:
    """One original layout; its functions take the content of the original config.json.

    Attributes:
        description: what the layout is, for errors.
        family: the classes that the result is written for.
        rules: the table of its tensors.
        describes: whether a config.json is of this layout.
        read_config: the model's config, given the tokenizer's ids as well.
        read_image_processor: the image processor, given the checkpoint's folder first.
    """

    description: str
    family: Family
    rules: tuple[Rule, ...]
    describes: Callable[[dict[str, Any]], bool]
    read_config: Callable[[dict[str, Any], dict[str, int]], PreTrainedConfig]
    read_image_processor: Callable[[Path, dict[str, Any]], BaseImageProcessor]
