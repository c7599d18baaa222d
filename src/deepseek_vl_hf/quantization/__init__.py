"""4-bit weights with torchao: a quarter of the memory, several times the speed of a token."""

from .config import QUANT_METHOD, Int4Config, int4_config
from .quantizer import Int4Quantizer
from .report import QuantizationReport, quantization_report

__all__ = [
    "QUANT_METHOD",
    "Int4Config",
    "Int4Quantizer",
    "QuantizationReport",
    "int4_config",
    "quantization_report",
]
