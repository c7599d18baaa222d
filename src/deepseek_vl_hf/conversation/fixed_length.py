"""Processors of families in which every image takes the same number of places."""

from collections.abc import Sequence
from typing import Any

from .processor import ChatProcessor


class FixedLengthChatProcessor(ChatProcessor):
    """`ChatProcessor` of a family in which every image takes the same number of places.

    Args:
        image_processor: the family's image processor.
        tokenizer: the byte-level BPE tokenizer.
        chat_template: Jinja text; by default the original's format.
        num_image_tokens: places that one image takes.

    Raises:
        ValueError: the tokenizer lacks the image token, or gives two tokens one id.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        num_image_tokens: int = 576,
    ) -> None:
        self.num_image_tokens = num_image_tokens
        super().__init__(image_processor, tokenizer, chat_template)

    def num_tokens_of_images(self, images: dict[str, Any]) -> list[int]:
        """See `ChatProcessor.num_tokens_of_images`."""
        return [self.num_image_tokens] * len(images["pixel_values"])

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """What one image place of a prompt becomes; serving engines call this."""
        return self.image_token * self.num_image_tokens

    def num_tokens_of_sizes(self, image_sizes: Sequence[Sequence[int]], **kwargs: Any) -> tuple[list[int], list[int]]:
        """Tokens and patches of images in (height, width) pixels: every image takes the same number."""
        return [self.num_image_tokens] * len(image_sizes), [1] * len(image_sizes)
