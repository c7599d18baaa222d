"""Checks of a model's config file, and how the configs of its parts are built."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from ..kinds import is_number, is_whole

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
    "deepseek_ocr": "DeepseekOCR",
}

# The smallest and the largest value of a part's sizes. No published model comes near the largest, and what lies beyond
# would be built layer by layer until memory ends.
SIZES = {
    "num_hidden_layers": (0, 1000),
    "num_attention_heads": (1, 4096),
    "num_key_value_heads": (1, 4096),
    "hidden_size": (1, 2**17),
    "intermediate_size": (1, 2**20),
    "moe_intermediate_size": (1, 2**20),
    "vocab_size": (1, 2**24),
    "max_position_embeddings": (1, 2**26),
    "n_routed_experts": (0, 2**14),
    "n_shared_experts": (0, 2**10),
    "num_experts_per_tok": (0, 2**14),
    "image_size": (1, 2**14),
    "patch_size": (1, 2**12),
    "output_channels": (1, 2**17),
    "mlp_dim": (1, 2**20),
    "window_size": (0, 2**12),
    "downsample_ratio": (1, 2**6),
}
# Of what a config says of its rotary embedding, what is no number.
ROPE_WORDS = ("rope_type", "type", "truncate")


def check_sizes(name: str, config: PreTrainedConfig) -> None:
    """Raises ValueError if a size of a part is no whole number, or beyond what any model has."""
    for field, (smallest, largest) in SIZES.items():
        size = getattr(config, field, None)
        if size is None:
            continue
        if not is_whole(size, smallest, largest):
            raise ValueError(
                f"{name} has {field} {size!r}; expected a whole number from {smallest} to {largest}. config.json is "
                "damaged or mistyped; download it again."
            )


def check_rope(name: str, config: PreTrainedConfig) -> None:
    """Raises ValueError if what a part says of its rotary embedding is no number where one is needed."""
    for field, value in (getattr(config, "rope_parameters", None) or {}).items():
        # Factors of some kinds are one for each frequency.
        numbers = value if isinstance(value, list) and field.endswith("_factor") else [value]
        if value is None or field in ROPE_WORDS or all(map(is_number, numbers)):
            continue
        raise ValueError(
            f"{name} has {field} {value!r} in its rope_parameters; expected a number. config.json is damaged or "
            "mistyped; download it again."
        )


@contextmanager
def naming_bad_fields(place: str, fields: Any) -> Iterator[None]:
    """Turns what a field of a wrong kind leads to inside transformers into a ValueError that names the place.

    Args:
        place: where the fields stand.
        fields: what is read, as far as it is a dict.

    Raises:
        ValueError: a field is of another kind than its name needs.
    """
    labels = fields.get("id2label") if isinstance(fields, dict) else None
    if labels is not None and not (isinstance(labels, dict) and all(str(key).isdecimal() for key in labels)):
        raise ValueError(
            f"{place} has id2label {labels!r}; expected texts by number. The file is damaged or mistyped; download it "
            "again."
        )
    try:
        yield
    except (AttributeError, LookupError, OverflowError, RecursionError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{place} cannot be read ({reason}). It is damaged, or a field is of another kind than its name needs; "
            "download it again."
        ) from error


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
        ValueError: the part is of an unsupported `model_type`, or a field is of another kind or out of bounds.
    """
    config = _build(given, name, published, supported)
    check_sizes(name, config)
    check_rope(name, config)
    return config


def _build(
    given: Any, name: str, published: dict[str, Any], supported: tuple[str, ...] | type[PreTrainedConfig]
) -> PreTrainedConfig:
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
    with naming_bad_fields(name, given):
        if isinstance(supported, type):
            return supported(**{key: value for key, value in given.items() if key != "model_type"})
        return AutoConfig.for_model(**{**given, "model_type": model_type})
