"""Checks of a model's config file, and how the configs of its parts are built."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

# SigLIP-L/16 at 384 pixels. The tower's GELU is the exact one (transformers' default for SigLIP is the tanh
# approximation), and its pooling head is never used.
SIGLIP_LARGE_PATCH16_384: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "vision_use_head": False,
}

# Which classes read which checkpoints, for the error that names the right one.
CLASSES_OF_MODEL_TYPES = {
    "deepseek_vl": "DeepseekVL",
    "deepseek_vl_hybrid": "DeepseekVLHybrid",
    "deepseek_vl2": "DeepseekVL2",
}


def check_model_type(config_dict: dict[str, Any], expected: str) -> None:
    """Raises ValueError if a config file is of another model type than the class that reads it."""
    found = config_dict.get("model_type", expected)
    if found == expected:
        return
    prefix = CLASSES_OF_MODEL_TYPES.get(found)
    remedy = (
        f"Use {prefix}Config and {prefix}ForConditionalGeneration" if prefix else "Use the class of that model type"
    )
    raise ValueError(
        f"The checkpoint has the model_type {found!r}; expected {expected!r}. {remedy}, or an Auto class such as "
        "AutoModelForImageTextToText, which finds the class by itself."
    )


def resolve_sub_config(
    given: Any,
    name: str,
    published: dict[str, Any],
    supported: tuple[str, ...] | type[PreTrainedConfig],
) -> PreTrainedConfig:
    """Builds the config of one part.

    A part that is absent gets the published sizes. A dict is completed by the part's own defaults, not by the
    published sizes, so that a file means the same here and in plain transformers.

    Args:
        given: what the config file or the caller says of the part: a config, a dict of its fields, or None.
        name: the field's name, for the error.
        published: the published sizes.
        supported: the `model_type`s that the model can be built with, or its one config class if the part is the
            family's own.

    Raises:
        TypeError: neither a config, a dict nor None.
        ValueError: the part is of an unsupported `model_type`.
    """
    if given is None:
        given = published
    if not isinstance(given, (dict, PreTrainedConfig)):
        raise TypeError(f"{name} is a {type(given).__name__}; expected a config, a dict of its fields, or None.")
    model_types = (supported.model_type,) if isinstance(supported, type) else supported
    model_type = given.get("model_type", model_types[0]) if isinstance(given, dict) else given.model_type
    if model_type not in model_types:
        raise ValueError(
            f"{name} has the model_type {model_type!r}; expected {' or '.join(map(repr, model_types))}. "
            "Load this checkpoint with the model class that its config was written for."
        )
    if isinstance(given, PreTrainedConfig):
        return given
    if isinstance(supported, type):
        return supported(**{key: value for key, value in given.items() if key != "model_type"})
    return AutoConfig.for_model(**{**given, "model_type": model_type})
