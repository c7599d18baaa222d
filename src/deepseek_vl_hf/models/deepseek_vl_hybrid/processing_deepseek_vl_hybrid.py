"""Processor of DeepSeek-VL-Hybrid."""

from ...conversation.fixed_length import FixedLengthChatProcessor


class DeepseekVLHybridProcessor(FixedLengthChatProcessor):
    """`FixedLengthChatProcessor` with a `DeepseekVLHybridImageProcessor`.

    Beside the ids it gives `pixel_values` [images, 3, 384, 384] and `high_res_pixel_values` [images, 3, 1024, 1024];
    both resolutions of an image share its places.
    """
