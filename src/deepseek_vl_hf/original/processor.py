"""What the originals' processors have in common: each is a view on one of this package's."""

from typing import Any

from transformers import AutoProcessor
from transformers.utils import logging

from ..checkpoints.layouts.files import PROCESSOR, in_repository, read_json, split_hub_arguments
from ..models.steps import IGNORED

logger = logging.get_logger(__name__)

# The original drops transparency, so the colors that lie hidden there are seen.
AS_IN_THE_ORIGINAL = {"transparency": "drop"}


class OriginalProcessor:
    """What both processors have in common.

    Args:
        processor: this package's.
        mask_prompt: whether labels leave questions out.
    """

    own_classes: tuple[type, ...]
    sft_format = "deepseek"
    ignore_id = IGNORED
    add_special_token = False

    own: Any

    def __init__(self, processor: Any, mask_prompt: bool = True) -> None:
        self.own = processor
        self.tokenizer = self.own.tokenizer
        self.image_token = self.own.image_token
        self.mask_prompt = mask_prompt

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in transformers, from original and converted checkpoints.

        Raises:
            TypeError: the checkpoint is of another family.
        """
        mask_prompt = kwargs.pop("mask_prompt", None)
        if mask_prompt is None:
            stored = in_repository(pretrained_model_name_or_path, **split_hub_arguments(kwargs)[0])(PROCESSOR)
            mask_prompt = True if stored is None else read_json(stored).get("mask_prompt", True)
        processor = AutoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        if not isinstance(processor, cls.own_classes):
            expected = " or ".join(each.__name__ for each in cls.own_classes)
            found = type(processor).__name__
            raise TypeError(f"The checkpoint has a {found}; {cls.__name__} expected one with a {expected}.")
        return cls(processor, mask_prompt)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Saves this package's processor, in the transformers layout."""
        self.own.save_pretrained(save_directory, **kwargs)

    @property
    def pad_id(self) -> int:
        """Id of the padding."""
        return int(self.tokenizer.pad_token_id)

    def counted(self, text: str, images: Any) -> list[Any]:
        """The pictures as a list.

        Raises:
            ValueError: other numbers of pictures than of their places.
        """
        images = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
        if text.count(self.image_token) != len(images):
            raise ValueError(
                f"Found {len(images)} pictures and {text.count(self.image_token)} {self.image_token} in the prompt; "
                f"expected one {self.image_token} for each picture, where it is to stand."
            )
        return images


def warn_of_unread(arguments: dict[str, Any]) -> None:
    """Says once that arguments of a call are not read; the originals' processors swallow them, too."""
    if arguments:
        names = ", ".join(f"{name}=..." for name in arguments)
        logger.warning_once(f"Found {names}, which the original's processor does not read, so nor does this one.")


def check_one_of(prompt: Any, conversations: Any) -> None:
    """Raises ValueError unless one of the two is given, and only one."""
    if (prompt is None) == (conversations is None):
        raise ValueError("Found neither or both of prompt and conversations; pass one of them.")
