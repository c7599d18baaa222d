"""Original checkpoints: the tables that map them, loading them directly, and conversion in both directions."""

from .convert import ConversionResult, convert_checkpoint, describe_conversion
from .jobs import NothingToConvertError

__all__ = ["ConversionResult", "NothingToConvertError", "convert_checkpoint", "describe_conversion"]
