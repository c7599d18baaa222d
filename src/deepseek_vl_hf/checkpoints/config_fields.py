"""Parts of an original config.json that the DeepSeek-VL layouts have in common."""

from typing import Any

from transformers import PreTrainedConfig

MODEL_TYPE = "multi_modality"


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
    kept = {key: value for key, value in language.items() if not key.startswith("_") and key != "torch_dtype"}
    special = {key: token_ids[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"model_type": "llama", **kept, **special, "dtype": language.get("torch_dtype")}


def check_values(section: dict[str, Any], expected: dict[str, Any], place: str) -> None:
    """Raises ValueError where a section of the file has a key with another value than the expected one."""
    for key, value in expected.items():
        if section.get(key, value) != value:
            raise ValueError(
                f"{place}.{key} is {section[key]!r}; expected {value!r}, which the other sections ask for."
            )


def check_projector(original: dict[str, Any], projector_type: str, vision_width: int, config: PreTrainedConfig) -> None:
    """Raises ValueError if the aligner is of another type or of other sizes than towers and language model."""
    expected = {
        "projector_type": projector_type,
        "depth": 2,
        "input_dim": vision_width,
        "n_embed": config.text_config.hidden_size,
    }
    check_values(section(original, "aligner_config.params"), expected, "aligner_config.params")
