"""Processor of DeepSeek-VL2."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers import BatchFeature

from ...conversation.chat_templates import DEEPSEEK_VL2_TEMPLATE, VL2_IMAGE_TOKEN
from ...conversation.processor import ChatProcessor
from ...pictures.sizes import grids_of, square_side
from ..grounding import GroundedText, find_all_boxes
from .image_processing_deepseek_vl2 import per_image
from .tiling import MOST_TILED_IMAGES, grid_side, num_image_tokens, num_tiles, tile_grid

# Tokens with which people ask for places in a picture; they are control tokens in typed text too.
GROUNDING_TOKENS = ("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>")


class DeepseekVL2Processor(ChatProcessor):
    """`ChatProcessor` with a `DeepseekVL2ImageProcessor`.

    Beside the ids it gives `pixel_values` [tiles, 3, 384, 384] and `tile_grids` [images, 2]. An image takes as many
    places as `tiling.num_image_tokens` says of its grid.

    `tiling`, an argument of every call, says whether pictures are cut into tiles: True, False, one of them for each
    picture, or "auto", which is the rule of the published models: up to two pictures in a conversation are, and of more
    none. Pictures without a prompt count as one conversation.

    Args:
        image_processor: a `DeepseekVL2ImageProcessor`.
        tokenizer: the byte-level BPE tokenizer.
        chat_template: Jinja text; by default the original's format.
        patch_size: of the tower, in pixels.
        downsample_ratio: side of the block of patches that becomes one token.
        tiling: the default of the argument.

    Raises:
        ValueError: the tokenizer lacks the image token.
    """

    default_chat_template = DEEPSEEK_VL2_TEMPLATE
    default_image_token = VL2_IMAGE_TOKEN
    typed_controls = GROUNDING_TOKENS
    # The original encodes what comes before an answer, its colon included, apart from the answer.
    fixed_texts = ("<|Assistant|>:",)

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        patch_size: int = 14,
        downsample_ratio: int = 2,
        tiling: str | bool = "auto",
    ) -> None:
        self.patch_size = patch_size
        self.downsample_ratio = downsample_ratio
        self.tiling = _checked_tiling(tiling)
        super().__init__(image_processor, tokenizer, chat_template)

    @property
    def tokens_per_side(self) -> int:
        """Tokens along the edge of a tile."""
        return grid_side(self._tile, self.patch_size, self.downsample_ratio)

    @property
    def _tile(self) -> int:
        size = self.image_processor.size
        return size["height"] if isinstance(size, dict) else square_side(size)

    def process_images(self, pictures: list[Image.Image], places: Sequence[int], **kwargs: Any) -> BatchFeature:
        """See `ChatProcessor.process_images`."""
        tiling = _checked_tiling(kwargs.pop("tiling", self.tiling))
        if tiling == "auto":
            tiling = [count <= MOST_TILED_IMAGES for count in places for _ in range(count)]
        return self.image_processor(pictures, tiling=tiling, **kwargs)

    def process_picture(self, picture: Image.Image, count: int, tiling: str | bool | None = None) -> BatchFeature:
        """See `ChatProcessor.process_picture`.

        With "auto" the pictures of a message are cut into tiles if no more than two are in the conversation with them.
        Those of earlier messages stay as they were, where a whole conversation processed at once would have none of
        three pictures tiled.
        """
        tiling = _checked_tiling(self.tiling if tiling is None else tiling)
        tiling = count <= MOST_TILED_IMAGES if tiling == "auto" else tiling
        return self.image_processor([picture], tiling=tiling, return_tensors="pt")

    def if_too_long(self, image_lengths: Sequence[int]) -> str:
        """See `ChatProcessor.if_too_long`."""
        least, text = num_image_tokens(1, 1, self.tokens_per_side), super().if_too_long(image_lengths)
        return (
            f"{text} With tiling=False an image takes {least} tokens."
            if max(image_lengths, default=0) > least
            else text
        )

    def num_tokens_of_images(self, images: dict[str, Any]) -> list[int]:
        """See `ChatProcessor.num_tokens_of_images`."""
        return [num_image_tokens(*grid, self.tokens_per_side) for grid in grids_of(images)]

    def first_images(self, images: dict[str, Any], count: int) -> dict[str, Any]:
        """See `ChatProcessor.first_images`."""
        tiles = sum(num_tiles(*grid) for grid in grids_of(images)[:count])
        return {"pixel_values": images["pixel_values"][:tiles], "tile_grids": images["tile_grids"][:count]}

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """What one image place of a prompt becomes; serving engines call this."""
        return self.image_token * self.num_tokens_of_images(image_inputs)[image_idx]

    def num_tokens_of_sizes(self, image_sizes: Sequence[Sequence[int]], **kwargs: Any) -> tuple[list[int], list[int]]:
        """Tokens and tiles of images in (height, width) pixels, which are one conversation."""
        tiling = _checked_tiling(kwargs.get("tiling", self.tiling))
        if tiling == "auto":
            tiling = len(image_sizes) <= MOST_TILED_IMAGES
        candidates = self.image_processor.candidate_resolutions
        grids = [
            tile_grid(width, height, candidates, self._tile) if tiled else (1, 1)
            for (height, width), tiled in zip(image_sizes, per_image(tiling, len(image_sizes)), strict=True)
        ]
        tokens = [num_image_tokens(*grid, self.tokens_per_side) for grid in grids]
        return tokens, [num_tiles(*grid) for grid in grids]

    def post_process_grounding(
        self, text: str | Sequence[str], image_sizes: Sequence[Sequence[int] | Image.Image]
    ) -> list[GroundedText]:
        """Finds the places that answers name.

        Args:
            text: one answer or several, decoded with `skip_special_tokens=False`.
            image_sizes: for each answer the (height, width) of the picture that it speaks of, in pixels, or the picture
                itself as a Pillow image. For one answer one picture will do.

        Returns:
            For each answer its labels and boxes in pixels; see `GroundedText`.

        Raises:
            TypeError, ValueError: other numbers of answers and of sizes, or what is no answer or no size.
        """
        return find_all_boxes(text, image_sizes)


def _checked_tiling(tiling: Any) -> Any:
    """The same; raises ValueError unless it is "auto", True, False, or a list of the latter two."""
    each = tiling if isinstance(tiling, (list, tuple)) else [tiling]
    if tiling != "auto" and not all(isinstance(value, bool) for value in each):
        raise ValueError(f"tiling is {tiling!r}; expected 'auto', True, False, or True or False for each image.")
    return tiling
