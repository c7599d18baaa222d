"""Checkpoints that carry a name which this package has registered, and are another's.

`deepseek_vl_v2` is the model type of DeepSeek-VL2, -OCR and -OCR-2, `multi_modality` that of DeepSeek-VL and of
Janus; transformers knows none of them. What is not ours goes where it would go if nothing had been registered.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.dynamic_module_utils import get_class_from_dynamic_module, resolve_trust_remote_code
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    TOKENIZER_MAPPING,
    TOKENIZER_MAPPING_NAMES,
)

from .callers import calls_of_auto_config

_lock = threading.RLock()


def config_from_its_own_code(config_dict: dict[str, Any]) -> Any:
    """The config of a checkpoint that brings its own code, if the caller of `AutoConfig` trusts it.

    transformers prefers a registered config class to a checkpoint's own code, and does not tell it whether that code is
    trusted. So the answer is taken from the call of `AutoConfig.from_pretrained` itself.

    Args:
        config_dict: config.json.

    Raises:
        ValueError: the code is not trusted, or there is none.
    """
    reference = (config_dict.get("auto_map") or {}).get("AutoConfig")
    call = _call_of_auto_config(config_dict)
    if reference is None or call is None:
        named = ", ".join(config_dict.get("architectures") or ["another model"])
        raise ValueError(
            f"config.json is of {named}, which has the model_type {config_dict.get('model_type')!r} too. This model is "
            "not in deepseek_vl_hf, and the checkpoint brings no code of its own. Use the package that has it."
        )
    name_or_path = call["pretrained_model_name_or_path"]
    upstream = reference.split("--")[0] if "--" in reference else None
    resolve_trust_remote_code(bool(call["trust_remote_code"]), name_or_path, False, True, upstream)
    config_class = get_class_from_dynamic_module(
        reference, name_or_path, code_revision=call["code_revision"], **call["kwargs"]
    )
    config_class.register_for_auto_class()
    return config_class.from_pretrained(name_or_path, **call["kwargs"])


def _call_of_auto_config(config_dict: dict[str, Any]) -> dict[str, Any] | None:
    """The local variables of the `AutoConfig.from_pretrained` that has read this config.json, or None.

    It must be this very one: trust in one checkpoint says nothing of another.
    """
    for call in calls_of_auto_config():
        if call.f_locals.get("config_dict") is config_dict:
            return call.f_locals
    return None


@contextmanager
def as_if_unregistered(config: type) -> Iterator[None]:
    """While active, transformers' tables know nothing of a registered config, its tokenizer and its processor.

    One thread at a time; one that loads a checkpoint of ours meanwhile may not find our classes.
    """
    model_type: str = config.model_type  # type: ignore[attr-defined]
    tables: list[tuple[dict[Any, Any], Any]] = [
        (CONFIG_MAPPING._extra_content, model_type),
        (TOKENIZER_MAPPING_NAMES, model_type),
        *(
            (mapping._extra_content, config)
            for mapping in (PROCESSOR_MAPPING, IMAGE_PROCESSOR_MAPPING, TOKENIZER_MAPPING)
        ),
    ]
    with _lock:
        taken = [(table, key, table.pop(key)) for table, key in tables if key in table]
        marked = model_type in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
        MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.discard(model_type)
        try:
            yield
        finally:
            for table, key, value in taken:
                table[key] = value
            if marked:
                MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.add(model_type)
