"""Processor of DeepSeek-VL with one vision tower."""

from ...conversation.fixed_length import FixedLengthChatProcessor


class DeepseekVLProcessor(FixedLengthChatProcessor):
    """`FixedLengthChatProcessor` with a `DeepseekVLImageProcessor`.

    Beside the ids it gives `pixel_values` [images, 3, 384, 384].
    """
