"""Converting an original checkpoint to the transformers layout."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..images import num_image_tokens
from . import deepseek_vl, deepseek_vl_hybrid
from .config_fields import section
from .formats import OriginalFormat
from .processors import load_original_tokenizer
from .rules import Drop, Rule, convert_tensor, find_rule
from .source import iterate_tensors, read_json

FORMATS: tuple[OriginalFormat, ...] = (deepseek_vl.FORMAT, deepseek_vl_hybrid.FORMAT)
DEFAULT_MAX_POSITIONS = 16384

Report = Callable[[str], None]


def convert_checkpoint(source: str | Path, destination: str | Path, report: Report) -> None:
    """Writes weights, config, tokenizer, processor, chat template and generation config of `source` to `destination`.

    The source is only read. The result is put together beside the destination and moved there when it is complete, so
    the destination is complete or absent.

    Args:
        source: folder of an original DeepSeek-VL checkpoint.
        destination: folder to create; it must not exist, or be empty.
        report: receives a line of text for each step.

    Raises:
        FileNotFoundError: a file is missing in `source`.
        FileExistsError: `destination` holds files.
        ValueError: a file is damaged, or the checkpoint is of another family.
    """
    source, destination = Path(source), Path(destination)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder. Expected the folder of an original checkpoint.")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(f"{destination} exists and is not empty. Name a new folder, or remove this one first.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as temporary:
        # A folder of its own inside: the temporary one is private, the result has ordinary permissions.
        target = Path(temporary) / "checkpoint"
        target.mkdir()
        _convert(source, target, report)
        if destination.exists():
            destination.rmdir()
        shutil.move(target, destination)
    report(f"Wrote {destination}")


def _convert(source: Path, target: Path, report: Report) -> None:
    original = read_json(source, "config.json")
    layout = _find_format(original, source)
    max_positions = section(original, "language_config").get("max_position_embeddings", DEFAULT_MAX_POSITIONS)
    tokenizer = load_original_tokenizer(source, max_positions)
    special_ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    image_token_id = tokenizer.convert_tokens_to_ids(tokenizer.image_token)
    config = layout.read_config(original, {**special_ids, "image_token_id": image_token_id})
    _check_vocabulary(tokenizer, config)
    image_processor = layout.read_image_processor(source, original)
    report(
        f"Found {config.model_type}: {config.vision_config.num_hidden_layers} vision layers, "
        f"{config.text_config.num_hidden_layers} text layers"
    )
    with torch.device("meta"):
        model = layout.family.generation_model(config)
    save_torch_state_dict(_convert_tensors(source, layout.rules, model, report), target)
    config.save_pretrained(target)
    # Greedy decoding that stops at this tokenizer's EOS; the original repositories have no such file.
    GenerationConfig(**special_ids).save_pretrained(target)
    tokens = num_image_tokens(config.vision_config.image_size, config.vision_config.patch_size)
    layout.family.processor(image_processor, tokenizer, num_image_tokens=tokens).save_pretrained(target)
    for weights in target.glob("*.safetensors"):  # written as private files, unlike everything else
        weights.chmod((target / "config.json").stat().st_mode)


def _check_vocabulary(tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> None:
    largest, size = max(tokenizer.get_vocab().values()), config.text_config.vocab_size
    if largest >= size:
        raise ValueError(
            f"The tokenizer has ids up to {largest}, but the model's vocabulary holds {size}. The files belong to "
            "different checkpoints; download them again."
        )


def _find_format(config: dict[str, Any], source: Path) -> OriginalFormat:
    for layout in FORMATS:
        if layout.describes(config):
            return layout
    vision = config.get("vision_config")
    found = vision.get("cls") if isinstance(vision, dict) else vision
    expected = "; or ".join(layout.description for layout in FORMATS)
    raise ValueError(
        f"{source}/config.json has the model_type {config.get('model_type')!r} and the vision class "
        f"{found!r}. Expected an original checkpoint of {expected}."
    )


def _convert_tensors(
    source: Path, rules: tuple[Rule, ...], model: PreTrainedModel, report: Report
) -> dict[str, torch.Tensor]:
    """All tensors under their new names, checked against the model that the config describes."""
    state_dict: dict[str, torch.Tensor] = {}
    dropped: dict[str, int] = {}
    for name, tensor in iterate_tensors(source):
        rule, _ = find_rule(rules, name)
        if isinstance(rule, Drop):
            dropped[rule.reason] = dropped.get(rule.reason, 0) + 1
        for target, converted in convert_tensor(rules, name, tensor):
            state_dict[target] = converted
    _check_against_model(state_dict, model)
    report(f"Converted {len(state_dict)} tensors")
    for reason, count in dropped.items():
        report(f"Dropped {count} tensors: {reason}")
    return state_dict


def _check_against_model(state_dict: dict[str, torch.Tensor], model: PreTrainedModel) -> None:
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in state_dict.items()}
    problems = [f"{name}: missing" for name in expected if name not in found]
    problems += [f"{name}: not in the model" for name in found if name not in expected]
    problems += [
        f"{name}: shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        listed = "\n  ".join(problems[:10])
        raise ValueError(
            f"{len(problems)} tensors do not fit the model that config.json describes (the first ones follow). Weights "
            f"and config belong to different checkpoints; download them again.\n  {listed}"
        )
