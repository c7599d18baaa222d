"""Putting this package's classes in force in transformers, and taking them back."""

from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)

from .checkpoints.loading.direct import register_original_checkpoints
from .models.families import FAMILIES, Registrations, register_family
from .quantization import QUANT_METHOD, Int4Config, Int4Quantizer

_registrations = Registrations()


def register() -> None:
    """Makes transformers' Auto classes and pipelines use this package's classes; a second call does nothing.

    Original checkpoints then load directly as well.
    """
    if _registrations.undo:
        return
    try:
        for family in FAMILIES:
            register_family(family, _registrations)
        register_original_checkpoints(_registrations)
        _register_quantization()
    except Exception:
        unregister()  # all or nothing: half a registration would mix both packages' classes
        raise


def unregister() -> None:
    """Restores transformers' Auto classes to what they were before `register()`."""
    _registrations.take_back()


def _register_quantization() -> None:
    """Makes transformers know 4-bit weights, as argument of `from_pretrained` and in saved models."""
    for table in (AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING):
        _registrations.remember(table, QUANT_METHOD)
    register_quantization_config(QUANT_METHOD)(Int4Config)
    register_quantizer(QUANT_METHOD)(Int4Quantizer)
