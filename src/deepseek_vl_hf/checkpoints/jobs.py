"""What a conversion will do, in either direction, worked out and checked before anything is written."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor, GenerationConfig, PreTrainedConfig, ProcessorMixin

from ..auto import FAMILIES
from .config_fields import MODEL_TYPE
from .files import in_folder, read_json, require
from .formats import OriginalFormat
from .original import CONFIG, FORMATS, IMAGES, PROCESSOR, read_original
from .plan import TensorPlan, as_sources, check_shapes, plan_tensors
from .rules import Drop, Rule, invert
from .source import StoredTensor, open_tensors

TRANSFORMERS, ORIGINAL = "transformers", "original"


class NothingToConvertError(ValueError):
    """The checkpoint is in the wanted layout already."""


@dataclass(frozen=True)
class Job:
    """A conversion that is ready to run.

    Attributes:
        to: the layout that is written, "transformers" or "original".
        config: the model's config in the transformers layout, its dtype that of the result.
        rules: the table that was applied.
        sources: the source's tensors.
        plan: what becomes of them.
        notes: what the user should know.
        write_files: writes everything but the weights into a folder.
    """

    to: str
    config: PreTrainedConfig
    rules: tuple[Rule, ...]
    sources: dict[str, StoredTensor]
    plan: TensorPlan
    notes: list[str]
    write_files: Callable[[Path], None]


@contextmanager
def open_job(source: Path, to: str, dtype: torch.dtype | None) -> Iterator[Job]:
    """Reads a checkpoint's small files and its tensors' names, and plans the conversion.

    Args:
        source: the checkpoint's folder.
        to: "transformers" or "original".
        dtype: type of the result; None keeps the source's.

    Raises:
        FileNotFoundError: a file is missing.
        NothingToConvertError: the checkpoint has that layout already.
        ValueError: a file is damaged, or the checkpoint is of another family.
    """
    if to not in (TRANSFORMERS, ORIGINAL):
        raise ValueError(f"Found the layout {to!r}; expected {TRANSFORMERS!r} or {ORIGINAL!r}.")
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder. Expected the folder of a checkpoint.")
    check_layout(read_json(require(in_folder(source), CONFIG)), source, to)
    prepare = _to_transformers if to == TRANSFORMERS else _to_original
    with open_tensors(source) as tensors:
        yield prepare(source, tensors, dtype)


def check_layout(config: dict[str, Any], source: Path, to: str) -> None:
    """Raises NothingToConvertError if a checkpoint has the layout `to` already."""
    model_type = config.get("model_type")
    ours = {family.config.model_type for family in FAMILIES}
    if to == TRANSFORMERS and model_type in ours:
        raise NothingToConvertError(
            f"{source} is in the transformers layout already (model_type {model_type!r}); there is nothing to convert. "
            "Open it as it is."
        )
    if to == ORIGINAL and model_type == MODEL_TYPE:
        raise NothingToConvertError(f"{source} is in the original layout already; there is nothing to convert.")
    if to == ORIGINAL and model_type not in ours:
        raise ValueError(
            f"{source}/config.json has the model_type {model_type!r}; expected {' or '.join(sorted(ours))}."
        )


def _to_transformers(source: Path, tensors: dict[str, StoredTensor], dtype: torch.dtype | None) -> Job:
    files = read_original(in_folder(source))
    tokenizer = files.load_tokenizer()
    config, image_processor = files.load_config(tokenizer), files.load_image_processor()
    processor = files.load_processor(tokenizer, image_processor)
    notes = _set_dtype(config, tensors, dtype)
    notes += [f"Nothing reads {key}" for key in files.unread_keys()]
    plan = plan_tensors(files.layout.rules, tensors)
    check_shapes(plan, _meta_model(files.layout, config))

    def write_files(folder: Path) -> None:
        config.save_pretrained(folder)
        # Greedy decoding that stops at this tokenizer's EOS; the original repositories have no such file.
        ids = {name: getattr(config.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        GenerationConfig(**ids).save_pretrained(folder)
        processor.save_pretrained(folder)

    return Job(TRANSFORMERS, config, files.layout.rules, tensors, plan, notes, write_files)


def _to_original(source: Path, tensors: dict[str, StoredTensor], dtype: torch.dtype | None) -> Job:
    config, processor = AutoConfig.from_pretrained(source), AutoProcessor.from_pretrained(source)
    layout = next(layout for layout in FORMATS if layout.family.config is type(config))
    notes = _set_dtype(config, tensors, dtype)
    model_json = layout.write_config(config, processor.image_processor)
    images_json = layout.write_image_processor(processor.image_processor)
    _check_way_back(layout, config, processor, model_json, images_json)
    tensors = {_short_name(name): tensor for name, tensor in tensors.items()}
    rules = invert(layout.rules)
    plan = plan_tensors(rules, tensors)
    check_shapes(plan_tensors(layout.rules, as_sources(plan)), _meta_model(layout, config))
    dropped = [rule for rule in layout.rules if isinstance(rule, Drop)]
    notes += [f"The result lacks {rule.source}, which the original stores: {rule.reason}" for rule in dropped]

    def write_files(folder: Path) -> None:
        processor_json = {
            "add_special_token": False,
            "image_tag": processor.image_token,
            "num_image_tokens": processor.num_image_tokens,
            "processor_class": "VLChatProcessor",
            "sft_format": "deepseek",
        }
        for name, content in ((CONFIG, model_json), (IMAGES, images_json), (PROCESSOR, processor_json)):
            _write_json(folder / name, content)
        _write_original_tokenizer(processor, folder)

    return Job(ORIGINAL, config, rules, tensors, plan, notes, write_files)


def _set_dtype(config: PreTrainedConfig, tensors: dict[str, StoredTensor], dtype: torch.dtype | None) -> list[str]:
    """Lets the config name the type that is written: fine-tunes often store another one than their config says."""
    stored = sorted({tensor.dtype for tensor in tensors.values() if tensor.dtype.is_floating_point}, key=str)
    said = config.dtype
    config.dtype = dtype or (stored[0] if len(stored) == 1 else said)
    config.text_config.dtype = config.dtype
    if said is not None and stored != [said]:
        found = " and ".join(str(found).removeprefix("torch.") for found in stored)
        return [f"The weights are stored as {found}, though config.json says {str(said).removeprefix('torch.')}"]
    return []


def _meta_model(layout: OriginalFormat, config: PreTrainedConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return layout.family.generation_model(config)


def _short_name(name: str) -> str:
    """The published transformers-layout files name the tower twice."""
    return name.replace("model.vision_model.vision_model.", "model.vision_model.", 1)


def _check_way_back(
    layout: OriginalFormat,
    config: PreTrainedConfig,
    processor: ProcessorMixin,
    model_json: dict[str, Any],
    images_json: dict[str, Any],
) -> None:
    """Raises ValueError if the original's files cannot say what this config and image processor say."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {"image_token_id": config.image_token_id, **{name: getattr(config.text_config, name) for name in names}}
    pairs = {
        CONFIG: (layout.read_config(model_json, ids), config),
        IMAGES: (layout.read_image_processor(images_json, model_json), processor.image_processor),
    }
    for name, (read_back, given) in pairs.items():
        found, expected = _flat(read_back.to_dict()), _flat(given.to_dict())
        # What is unset follows from the rest, and keys that the class does not know mean nothing.
        wrong = sorted(key for key, value in found.items() if expected.get(key) not in (None, value))
        if wrong:
            listed = ", ".join(f"{key} {expected.get(key)!r}" for key in wrong)
            raise ValueError(f"The original {name} cannot say: {listed}. Only the transformers layout keeps this.")


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted paths and values of a config, without what says nothing about what is computed."""
    unimportant = ("transformers_version", "_name_or_path", "architectures", "processor_class", "dtype")
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key not in unimportant:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _write_original_tokenizer(processor: ProcessorMixin, folder: Path) -> None:
    tokenizer = processor.tokenizer
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token")}
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        **tokens,
        "model_max_length": tokenizer.model_max_length,
        "tokenizer_class": "LlamaTokenizerFast",
    }
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", {**tokens, "additional_special_tokens": [processor.image_token]})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
