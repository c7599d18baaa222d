"""Converting an original checkpoint to the transformers layout."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerFast

from ..models.deepseek_vl.image_processing_deepseek_vl import DeepseekVLImageProcessor
from ..models.deepseek_vl.modeling_deepseek_vl import DeepseekVLForConditionalGeneration
from ..models.deepseek_vl.processing_deepseek_vl import DeepseekVLProcessor
from . import deepseek_vl
from .processors import image_processor_kwargs, load_original_tokenizer
from .rules import Drop, convert_tensor, find_rule
from .source import iterate_tensors, read_json

DEFAULT_MAX_POSITIONS = 16384


def convert_checkpoint(source: str | Path, destination: str | Path, report: Callable[[str], None] = print) -> None:
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
    # The temporary folder is created with the permissions of a private folder; the result gets those of a new one.
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as temporary:
        target = Path(temporary) / "checkpoint"
        target.mkdir()
        _convert(source, target, report)
        if destination.exists():
            destination.rmdir()
        shutil.move(target, destination)
    report(f"Wrote {destination}")


def _convert(source: Path, target: Path, report: Callable[[str], None]) -> None:
    original = read_json(source, "config.json")
    if not deepseek_vl.is_original_config(original):
        raise ValueError(
            f"{source}/config.json has the model_type {original.get('model_type')!r} and the vision class "
            f"{original.get('vision_config', {}).get('cls')!r}; expected 'multi_modality' and "
            f"{deepseek_vl.VISION_CLASS!r}, an original DeepSeek-VL checkpoint with one vision tower."
        )
    max_positions = original["language_config"].get("max_position_embeddings", DEFAULT_MAX_POSITIONS)
    tokenizer = load_original_tokenizer(source, max_positions)
    token_ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids(tokenizer.image_token),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = deepseek_vl.config_from_original(original, token_ids)
    report(
        f"Found {config.model_type}: {config.vision_config.num_hidden_layers} vision layers, "
        f"{config.text_config.num_hidden_layers} text layers"
    )
    state_dict = _convert_tensors(source, config, report)
    save_torch_state_dict(state_dict, target)
    config.save_pretrained(target)
    _generation_config(token_ids).save_pretrained(target)
    _processor(source, original, config, tokenizer).save_pretrained(target)


def _convert_tensors(source: Path, config: PreTrainedConfig, report: Callable[[str], None]) -> dict[str, torch.Tensor]:
    """All tensors under their new names, checked against the shapes of the model that the config describes."""
    state_dict: dict[str, torch.Tensor] = {}
    dropped: dict[str, int] = {}
    for name, tensor in iterate_tensors(source):
        rule, _ = find_rule(deepseek_vl.RULES, name)
        if isinstance(rule, Drop):
            dropped[rule.reason] = dropped.get(rule.reason, 0) + 1
        for target, converted in convert_tensor(deepseek_vl.RULES, name, tensor):
            state_dict[target] = converted
    _check_against_model(state_dict, config)
    report(f"Converted {len(state_dict)} tensors")
    for reason, count in dropped.items():
        report(f"Dropped {count} tensors: {reason}")
    return state_dict


def _check_against_model(state_dict: dict[str, torch.Tensor], config: PreTrainedConfig) -> None:
    with torch.device("meta"):
        expected = {name: list(tensor.shape) for name, tensor in _model(config).state_dict().items()}
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


def _model(config: PreTrainedConfig) -> DeepseekVLForConditionalGeneration:
    return DeepseekVLForConditionalGeneration(config)


def _generation_config(token_ids: dict[str, int]) -> GenerationConfig:
    """Greedy decoding that stops at this tokenizer's EOS; the original repositories have no such file."""
    return GenerationConfig(**{key: token_ids[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")})


def _processor(
    source: Path, original: dict, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> DeepseekVLProcessor:
    params = deepseek_vl.vision_params(original)
    kwargs = image_processor_kwargs(source, config.vision_config.image_size, params["pixel_mean"], params["pixel_std"])
    return DeepseekVLProcessor(DeepseekVLImageProcessor(**kwargs), tokenizer, num_image_tokens=config.num_image_tokens)
