"""Original checkpoints: the tables that map them, loading them directly, and conversion in both directions."""

from .conversion.convert import ConversionResult, convert_checkpoint, describe_conversion
from .conversion.jobs import NothingToConvertError
from .conversion.quantize import quantize_checkpoint

__all__ = [
    "ConversionResult",
    "NothingToConvertError",
    "convert_checkpoint",
    "describe_conversion",
    "quantize_checkpoint",
]
