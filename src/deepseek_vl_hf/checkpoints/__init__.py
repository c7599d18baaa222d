"""Original checkpoints: the tables that map them, and the conversion to the transformers layout."""

from .convert import convert_checkpoint

__all__ = ["convert_checkpoint"]
