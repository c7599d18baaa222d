"""Processor of DeepSeek-OCR."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ...conversation.chat_templates import DEEPSEEK_OCR_TEMPLATE, VL2_IMAGE_TOKEN
from ...conversation.processor import ChatProcessor
from ...pictures.sizes import grids_of
from ..grounding import GroundedText, find_all_boxes
from .views import mode_of, num_image_tokens, num_tiles, tile_grid

# Tokens with which people ask for places and models write tables; they are control tokens in typed text too.
TYPED_TOKENS = (
    *("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>"),
    *("<td>", "</td>", "<tr>", "</tr>"),
)


# The authors', which the model was trained on.
PROMPTS = (
    "<|grounding|>Convert the document to markdown.",
    "<|grounding|>OCR this image.",
    "Free OCR.",
    "Parse the figure.",
    "Describe this image in detail.",
)


class DeepseekOCRProcessor(ChatProcessor):
    """`ChatProcessor` with a `DeepseekOCRImageProcessor`.

    Beside the ids it gives `pixel_values` [images, 3, side, side], `tile_grids` [images, 2] and, where a picture has
    tiles, `tile_pixel_values` [tiles, 3, tile, tile]. An image takes as many places as `views.num_image_tokens` says.

    `mode`, an argument of every call, says how large the views are; see `DeepseekOCRImageProcessor`. The chat template
    writes the messages' text and nothing else, with a line break between a picture and a text that begins without one.

    Args:
        image_processor: a `DeepseekOCRImageProcessor`.
        tokenizer: the byte-level BPE tokenizer.
        chat_template: Jinja text; by default the original's format.

    Raises:
        ValueError: the tokenizer lacks the image token.
    """

    default_chat_template = DEEPSEEK_OCR_TEMPLATE
    default_image_token = VL2_IMAGE_TOKEN
    typed_controls = TYPED_TOKENS
    suggested_prompts = PROMPTS

    def if_too_long(self, image_lengths: Sequence[int]) -> str:
        """See `ChatProcessor.if_too_long`."""
        text = super().if_too_long(image_lengths)
        return f'{text} mode="tiny" takes the fewest tokens.' if image_lengths else text

    def num_tokens_of_images(self, images: dict[str, Any]) -> list[int]:
        """See `ChatProcessor.num_tokens_of_images`."""
        side, tiles = _side(images["pixel_values"]), images.get("tile_pixel_values")
        tile = None if tiles is None or not len(tiles) else _side(tiles)
        return [num_image_tokens(grid, side, tile) for grid in grids_of(images)]

    def first_images(self, images: dict[str, Any], count: int) -> dict[str, Any]:
        """See `ChatProcessor.first_images`."""
        first = {name: images[name][:count] for name in ("pixel_values", "tile_grids")}
        tiles = sum(num_tiles(*grid) for grid in grids_of(images)[:count])
        return {**first, "tile_pixel_values": images["tile_pixel_values"][:tiles]} if tiles else first

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """What one image place of a prompt becomes; serving engines call this."""
        return self.image_token * self.num_tokens_of_images(image_inputs)[image_idx]

    def num_tokens_of_sizes(self, image_sizes: Sequence[Sequence[int]], **kwargs: Any) -> tuple[list[int], list[int]]:
        """Tokens and views of images in (height, width) pixels."""
        mode = mode_of(kwargs.get("mode", self.image_processor.mode))
        grids = [tile_grid(width, height, mode.tile) for height, width in image_sizes]
        tokens = [num_image_tokens(grid, mode.side, mode.tile) for grid in grids]
        return tokens, [1 + num_tiles(*grid) for grid in grids]

    def post_process_grounding(
        self, text: str | Sequence[str], image_sizes: Sequence[Sequence[int] | Image.Image]
    ) -> list[GroundedText]:
        """Finds the places that answers name; arguments and errors as of `find_all_boxes`.

        Returns:
            For each answer its labels and boxes in pixels; see `GroundedText`.
        """
        return find_all_boxes(text, image_sizes)


def _side(pixels: Any) -> int:
    """Of square views, a tensor or a list of them."""
    return int(pixels[0].shape[-1])
