"""Processor of DeepSeek-VL with one vision tower."""

from ...processing import ChatProcessor


class DeepseekVLProcessor(ChatProcessor):
    """`ChatProcessor` with a `DeepseekVLImageProcessor`: gives `pixel_values` [images, 3, 384, 384] beside the ids."""
