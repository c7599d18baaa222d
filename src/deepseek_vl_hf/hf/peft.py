"""peft, which looks the layers of a model type up in a table of its own where its caller names none.

Importing peft takes seconds, so the table is filled when a config is handed over: peft asks it for its fields first.
"""

import sys
from collections.abc import Callable, Mapping

_DEFAULTS: dict[str, str] = {}


def adapt_by_default(patterns: Mapping[str, str]) -> Callable[[], None]:
    """Has peft add adapters where nothing else is asked for; gives the function that ends this.

    Args:
        patterns: for each model type one that the whole names of the layers match.
    """
    _DEFAULTS.update(patterns)

    def end() -> None:
        table = _table()
        for model_type, pattern in patterns.items():
            _DEFAULTS.pop(model_type, None)
            if table.get(model_type) == pattern:
                del table[model_type]

    return end


def tell_peft() -> None:
    """Enters the defaults in peft's table, if peft has been imported and reads patterns there, as it does from 0.19."""
    table = _table()
    if any(isinstance(layers, str) for layers in table.values()):
        for model_type, pattern in _DEFAULTS.items():
            table.setdefault(model_type, pattern)


def _table() -> dict[str, object]:
    constants = sys.modules.get("peft.utils.constants")
    table: dict[str, object] = getattr(constants, "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", {})
    return table
