"""What a conversion will do, in either direction, worked out and checked before anything is written."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, ProcessorMixin

from ...models.families import FAMILIES
from ..layouts.config_fields import naming_bad_values
from ..layouts.files import CONFIG, OF_PROCESSORS, PROCESSOR, TEMPLATE, in_folder, read_json, require
from ..layouts.formats import OriginalFormat
from ..layouts.generation_file import GENERATION, read_generation_file
from ..layouts.original import FORMATS, MODEL_TYPES, read_original
from ..layouts.rules import Drop, Rule, invert
from ..layouts.small_files import open_processor
from ..tensors.plan import TensorPlan, as_sources, check_shapes, plan_tensors
from ..tensors.source import PICKLES, SAFETENSORS, StoredTensor, find_shards, open_tensors

TRANSFORMERS, ORIGINAL = "transformers", "original"
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# What is read beside the weights.
SMALL_FILES = (CONFIG, GENERATION, *OF_PROCESSORS)


class NothingToConvertError(ValueError):
    """The checkpoint is in the wanted layout already."""


@dataclass(frozen=True)
class Job:
    """A conversion that is ready to run.

    Attributes:
        to: the layout that is written, "transformers" or "original".
        config: the model's config in the transformers layout, its dtype that of the result.
        dtype: the type that was asked for; None keeps the source's.
        rules: the table that was applied.
        sources: the source's tensors.
        plan: what becomes of them.
        notes: what the user should know.
        write_files: writes everything but the weights into a folder.
    """

    to: str
    config: PreTrainedConfig
    dtype: torch.dtype | None
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
        ValueError: a file is damaged, holds a value of a wrong kind, or the checkpoint is of another family.
    """
    if to not in (TRANSFORMERS, ORIGINAL):
        raise ValueError(f"Found the layout {to!r}; expected {TRANSFORMERS!r} or {ORIGINAL!r}.")
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder. Expected the folder of a checkpoint.")
    check_layout(read_json(require(in_folder(source), CONFIG)), source, to)
    prepare = _to_transformers if to == TRANSFORMERS else _to_original
    with open_tensors(source) as tensors:
        with naming_bad_values(f"A JSON file of {source}"):
            job = prepare(source, tensors, dtype)
        yield job


def check_layout(config: dict[str, Any], source: Path, to: str) -> None:
    """Raises NothingToConvertError if a checkpoint has that layout already, ValueError if its weights are quantized."""
    if config.get("quantization_config"):
        raise ValueError(
            f"{source} has quantized weights, which have no other layout. Convert the checkpoint that it was made from."
        )
    model_type = config.get("model_type")
    ours = [family.config.model_type for family in FAMILIES]
    if to == TRANSFORMERS and model_type in ours:
        raise NothingToConvertError(
            f"{source} is in the transformers layout already (model_type {model_type!r}); there is nothing to convert. "
            "Open it as it is."
        )
    if to == ORIGINAL and model_type in MODEL_TYPES:
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
    generation = _generation_config(source, config)
    notes = _set_dtype(config, tensors, dtype)
    notes += [f"Nothing reads {key}" for key in files.unread_keys()]
    notes += _files_left_behind(source)
    plan = plan_tensors(files.layout.rules, tensors)
    _check_shapes(plan, files.layout, config)

    def write_files(folder: Path) -> None:
        config.save_pretrained(folder)
        generation.save_pretrained(folder)
        processor.save_pretrained(folder)

    return Job(TRANSFORMERS, config, dtype, files.layout.rules, tensors, plan, notes, write_files)


def _generation_config(source: Path, config: PreTrainedConfig) -> GenerationConfig:
    """The source's settings, and the tokenizer's special ids where it has none: published originals have no such file.

    Without more it decodes greedily and stops at EOS.
    """
    generation = GenerationConfig.from_dict(read_generation_file(source))
    for name in SPECIAL_IDS:
        if getattr(generation, name) is None:
            setattr(generation, name, getattr(config.text_config, name))
    return generation


def _files_left_behind(source: Path, also_read: str | None = None) -> list[str]:
    """Notes on what stands in the source's folder and was not read."""
    _, shards = find_shards(source)
    read = {*SMALL_FILES, also_read, *shards, *(index for _, index in (SAFETENSORS, PICKLES))}
    left = sorted(path.name for path in source.iterdir() if path.name not in read and not path.name.startswith("."))
    return [f"Left behind: {', '.join(left)}"] if left else []


def _to_original(source: Path, tensors: dict[str, StoredTensor], dtype: torch.dtype | None) -> Job:
    config, processor = AutoConfig.from_pretrained(source), open_processor(source)
    layout = next((layout for layout in FORMATS if layout.family.config is type(config)), None)
    if layout is None:
        raise ValueError(f"Found {type(config)} instead of this package's. Call deepseek_vl_hf.register() first.")
    generation = _generation_config(source, config)
    notes = _set_dtype(config, tensors, dtype) + _settings_lost(processor, layout)
    notes += _files_left_behind(source, TEMPLATE)
    model_json = layout.write_config(config, processor.image_processor)
    images_json = layout.write_image_processor(processor.image_processor)
    _check_way_back(layout, config, processor, model_json, images_json)
    tensors, rules = _short_names(tensors), invert(layout.rules)
    plan = plan_tensors(rules, tensors)
    _check_shapes(plan_tensors(layout.rules, as_sources(plan)), layout, config)
    notes += _tensors_lacking(layout)

    def write_files(folder: Path) -> None:
        contents = {CONFIG: model_json, PROCESSOR: layout.write_processor(processor)}
        contents[layout.images_file] = {**images_json, **contents.get(layout.images_file, {})}
        for name, content in contents.items():
            _write_json(folder / name, content)
        _write_original_tokenizer(processor, folder)
        if generation.to_diff_dict().keys() - set(SPECIAL_IDS) - {"transformers_version"}:
            generation.save_pretrained(folder)

    return Job(ORIGINAL, config, dtype, rules, tensors, plan, notes, write_files)


def _tensors_lacking(layout: OriginalFormat) -> list[str]:
    """Notes on what original checkpoints hold and the transformers layout does not, by the reason."""
    lacking: dict[str, list[str]] = {}
    for rule in layout.rules:
        if isinstance(rule, Drop):
            lacking.setdefault(rule.reason, []).append(re.sub(r"\{\w+\}", "*", rule.source))
    return [
        f"The result lacks {' and '.join(names)}, which the original stores: {reason}"
        for reason, names in lacking.items()
    ]


def _settings_lost(processor: ProcessorMixin, layout: OriginalFormat) -> list[str]:
    """Notes on settings for which the original files have no place."""
    lost = []
    if processor.chat_template != layout.prompts.chat_template:
        lost.append("The chat template is not the original's, which has no place for another")
    if getattr(processor, "tiling", "auto") != "auto":
        lost.append(
            f"The original decides itself which pictures to tile, whatever the processor's {processor.tiling!r}"
        )
    if processor.tokenizer.padding_side != "left":
        lost.append(f"The original pads on the left, not on the {processor.tokenizer.padding_side}")
    return lost


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


def _check_shapes(plan: TensorPlan, layout: OriginalFormat, config: PreTrainedConfig) -> None:
    with torch.device("meta"):
        model = layout.family.generation_model(config)
    check_shapes(plan, layout.stored_shapes(model), model.all_tied_weights_keys)


def _short_names(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors under the names that are written here: the published transformers-layout files name the tower twice.

    Raises:
        ValueError: a tensor is there under both names.
    """
    short: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        key = name.replace("model.vision_model.vision_model.", "model.vision_model.", 1)
        if key in short:
            raise ValueError(
                f"The checkpoint holds {short[key].name!r} and {name!r}, which are two names of one tensor. Remove the "
                "one that is out of date."
            )
        short[key] = tensor
    return short


def _check_way_back(
    layout: OriginalFormat,
    config: PreTrainedConfig,
    processor: ProcessorMixin,
    model_json: dict[str, Any],
    images_json: dict[str, Any],
) -> None:
    """Raises ValueError if the original's files cannot say what this config and image processor say."""
    ids = {name: getattr(config.text_config, name) for name in SPECIAL_IDS}
    ids["image_token_id"] = config.image_token_id
    pairs = {
        CONFIG: (layout.read_config(model_json, ids), config),
        layout.images_file: (layout.read_image_processor(images_json, model_json), processor.image_processor),
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
        "add_bos_token": tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id],
        "add_eos_token": False,
        **tokens,
        "model_max_length": tokenizer.model_max_length,
        "tokenizer_class": "LlamaTokenizerFast",
    }
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", {**tokens, "additional_special_tokens": [processor.image_token]})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
