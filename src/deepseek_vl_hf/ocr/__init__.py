"""Documents read with DeepSeek-OCR: pages in, Markdown with figures and boxes out."""

from .layout import Block, Layout, read_layout
from .prompts import PROMPTS, prompt_of

__all__ = ["PROMPTS", "Block", "Layout", "prompt_of", "read_layout"]
