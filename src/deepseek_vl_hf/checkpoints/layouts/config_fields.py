"""Parts of an original config.json that the DeepSeek-VL layouts have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig, PreTrainedConfig

from ...kinds import is_number

MODEL_TYPE = "multi_modality"

# Keys of the published files that say nothing about what this model computes, with the reason.
WITHOUT_MEANING = {
    "architectures": "the class is known from the model type and the vision class",
    "auto_map": "names code that is not run",
    "bos_token_id": "the tokenizer names it",
    "eos_token_id": "the tokenizer names it",
    "pad_token": "tokenizer_config.json names it",
    "weight_init": "a setting of the training",
    "ckpt_path": "a path on the machine of the training",
    "freeze_high": "a setting of the training",
    "freeze_low": "a setting of the training",
    "lm_head": "the head's tensor is there in any case",
    "rm_head": "the head's tensor is there in any case",
    "output_dim": "follows from the tower",
    "transformers_version": "the version that wrote the file",
    "_name_or_path": "where the file was read from",
    "image_mean": "the towers normalize, with the values of config.json",
    "image_std": "the towers normalize, with the values of config.json",
    "image_processor_type": "the class is known from the vision class",
    "processor_class": "the class is known from the vision class",
    "legacy": "of the wrong tokenizer class that the file names",
    "sp_model_kwargs": "of the wrong tokenizer class that the file names",
    "tokenizer_class": "wrong for these files",
    "use_default_system_prompt": "of the wrong tokenizer class that the file names",
    "unk_token": "byte-level tokenizers know every text",
    "clean_up_tokenization_spaces": "decoding changes nothing",
    "additional_special_tokens": "stand in tokenizer.json",
    "extra_special_tokens": "stand in tokenizer.json",
    "ignore_id": "a setting of the training",
    "mask_prompt": "a setting of the training",
}


class RecordedDict(dict[str, Any]):
    """A JSON object that knows which of its keys were read, so that those that nothing reads can be named.

    Args:
        content: the object.
        nested: whether the objects in it are to know that as well.
    """

    def __init__(self, content: dict[str, Any], nested: bool = True) -> None:
        super().__init__(
            {
                key: RecordedDict(value) if nested and isinstance(value, dict) else value
                for key, value in content.items()
            }
        )
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """See `dict.get`."""
        self._read.add(key)
        return super().get(key, default)

    def unread(self) -> Iterator[str]:
        """Dotted paths of the keys that were never read and have a meaning."""
        for key, value in self.items():
            if key not in self._read:
                if key not in WITHOUT_MEANING:
                    yield key
            elif isinstance(value, RecordedDict):
                yield from (f"{key}.{rest}" for rest in value.unread())


@contextmanager
def naming_bad_values(place: str) -> Iterator[None]:
    """Turns what a value of a wrong kind leads to (a text for a number, null for a section) into a ValueError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, StrictDataclassError) as error:
        raise ValueError(
            f"{place} holds a value of another kind than every DeepSeek-VL checkpoint has ({error}). Download the file "
            "again, or correct the value."
        ) from error


def has_vision_class(config: dict[str, Any], name: str) -> bool:
    """Whether a config.json is of DeepSeek-VL and has this vision class."""
    vision = config.get("vision_config")
    return config.get("model_type") == MODEL_TYPE and isinstance(vision, dict) and vision.get("cls") == name


def section(config: dict[str, Any], path: str) -> Any:
    """What stands at a dotted path of the file.

    Raises:
        ValueError: nothing stands there.
    """
    found: Any = config
    for key in path.split("."):
        if not isinstance(found, dict) or key not in found:
            raise ValueError(f"config.json has no {path}, which an original DeepSeek-VL checkpoint has.")
        found = found[key]
    return found


def text_config(language: dict[str, Any], token_ids: dict[str, int]) -> dict[str, Any]:
    """Fields of `LlamaConfig`: what the file says; Llama's defaults complete it, as they did in the original.

    Private keys and the old spelling of dtype are left out; the special ids come from the tokenizer, because the
    published files do not name them and Llama's defaults would be wrong.
    """
    known = {field.name for field in fields(LlamaConfig)} | {"rope_theta", "rope_scaling"}
    check_values(language, {"model_type": "llama"}, "language_config")
    dtype = checked_dtype(language, "language_config.")
    kept = {key: language[key] for key in language if key in known and not key.startswith("_")}
    special = {key: token_ids[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"model_type": "llama", **kept, **special, "dtype": dtype}


def checked_dtype(part: dict[str, Any], prefix: str = "") -> str | None:
    """The `torch_dtype` of a part of the file; None if it says none.

    Raises:
        ValueError: torch has no such type.
    """
    dtype = part.get("torch_dtype")
    if dtype is not None and not isinstance(getattr(torch, str(dtype), None), torch.dtype):
        raise ValueError(f"{prefix}torch_dtype is {dtype!r}; expected a type of torch, such as 'float16'.")
    return dtype


def pixel_statistics(part: dict[str, Any], place: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of pixels in [0, 1].

    Raises:
        ValueError: not three numbers each, or a deviation that is not positive.
    """
    mean, std = section(part, "pixel_mean"), section(part, "pixel_std")
    for name, values in (("pixel_mean", mean), ("pixel_std", std)):
        if not isinstance(values, list) or len(values) != 3 or not all(map(is_number, values)):
            raise ValueError(f"{place}.{name} is {values!r}; expected three numbers.")
    if min(std) <= 0:
        raise ValueError(f"{place}.pixel_std is {std}; expected positive numbers.")
    return mean, std


def check_values(section: dict[str, Any], expected: dict[str, Any], place: str) -> None:
    """Raises ValueError where a section of the file has a key with another value than the expected one."""
    for key, value in expected.items():
        if section.get(key, value) != value:
            raise ValueError(f"{place}.{key} is {section[key]!r}; expected {value!r}, as all these models have.")


def check_projector(original: dict[str, Any], projector_type: str, vision_width: int, config: PreTrainedConfig) -> None:
    """Raises ValueError if the aligner is of another type or of other sizes than towers and language model."""
    expected = {
        "projector_type": projector_type,
        "depth": 2,
        "input_dim": vision_width,
        "n_embed": config.text_config.hidden_size,
    }
    section(original, "aligner_config.params.projector_type")  # may not be left out, unlike the others
    names = {"model_type": "aligner", "cls": "MlpProjector"}
    check_values(section(original, "aligner_config"), names, "aligner_config")
    check_values(section(original, "aligner_config.params"), expected, "aligner_config.params")
    check_values(section(original, "vision_config"), {"model_type": "vision"}, "vision_config")


def text_section(text: PreTrainedConfig, dtype: Any) -> dict[str, Any]:
    """The original's `language_config`: what differs from Llama's defaults, as in the published files.

    The special ids are left out: they belong to the tokenizer.
    """
    defaults, written = LlamaConfig().to_dict(), {"model_type": "llama", "torch_dtype": dtype}
    special = {"bos_token_id", "eos_token_id", "pad_token_id", "dtype", "rope_parameters", "transformers_version"}
    always = ("max_position_embeddings", "num_hidden_layers", "vocab_size")
    for key, value in text.to_dict().items():
        if key in defaults and key not in special and (key in always or value != defaults[key]):
            written[key] = value
    if text.head_dim == text.hidden_size // text.num_attention_heads:
        written.pop("head_dim", None)  # follows, and the original's version of Llama does not know it
    rope = dict(text.rope_parameters)
    theta = rope.pop("rope_theta")
    if theta != defaults["rope_parameters"]["rope_theta"]:
        written["rope_theta"] = theta
    if rope.get("rope_type", "default") != "default":
        written["rope_scaling"] = {"type": rope["rope_type"], **rope}
    return written


def projector_section(projector_type: str, vision_width: int, config: PreTrainedConfig) -> dict[str, Any]:
    """The original's `aligner_config`."""
    params = {
        "depth": 2,
        "input_dim": vision_width,
        "n_embed": config.text_config.hidden_size,
        "projector_type": projector_type,
    }
    return {"cls": "MlpProjector", "model_type": "aligner", "params": params}


def model_section(config: PreTrainedConfig, vision: dict[str, Any], aligner: dict[str, Any]) -> dict[str, Any]:
    """The original's config.json as a whole."""
    dtype = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    return {
        "aligner_config": aligner,
        "architectures": ["MultiModalityCausalLM"],
        "language_config": text_section(config.text_config, dtype),
        "model_type": MODEL_TYPE,
        "torch_dtype": dtype,
        "vision_config": vision,
    }


def tower_params(presets: dict[str, dict[str, Any]], sizes: dict[str, Any], mean: Any, std: Any) -> dict[str, Any]:
    """The original's parameters of a tower: the preset's name, and the sizes that differ from it."""
    ((name, preset),) = presets.items()
    differing = {key: value for key, value in sizes.items() if key in preset and value != preset[key]}
    return {
        "model_name": name,
        "image_size": sizes["image_size"],
        "pixel_mean": list(mean),
        "pixel_std": list(std),
        "select_feature": "same",
        "select_layer": -1,
        **differing,
    }
