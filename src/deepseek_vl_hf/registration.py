"""Putting this package's classes in force in transformers, and taking them back."""

from .auto import FAMILIES, Registrations, register_family
from .checkpoints.loading.direct import register_original_checkpoints

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
    except Exception:
        unregister()  # all or nothing: half a registration would mix both packages' classes
        raise


def unregister() -> None:
    """Restores transformers' Auto classes to what they were before `register()`."""
    _registrations.take_back()
