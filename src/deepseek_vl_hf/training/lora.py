"""Which layers get adapters (LoRA, arXiv 2106.09685) where nothing else is asked for."""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from ..hf.ddp import keep_frozen_weights_apart
from ..models.deepseek_moe.experts import DeepseekMoeExperts

# Of the language model, as a pattern for names of modules.
LAYERS = r".*language_model\.layers\."


def named_layers(names: Iterable[str]) -> str:
    """A pattern for the whole names of the language model's layers with these last names."""
    return rf"{LAYERS}.*\.({'|'.join(sorted(names))})"


# Attention, that with latents included, and MLPs of all families: what peft takes where no model is at hand to look at.
DEFAULT_LAYERS = named_layers(
    (
        *("q_proj", "k_proj", "v_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )
)


def lora_config(model: Any, rank: int = 16, *, experts: bool = False, **options: Any) -> Any:
    """Settings for peft: adapters on attention and MLPs of the language model, for any of the families.

    Towers and aligner are left alone, as is the router of DeepSeek-VL2, whose choices adapters would change at once.

    Args:
        model: one of this package's models, its language model also with 4-bit weights.
        rank: of the adapters.
        experts: whether DeepSeek-VL2's routed experts get adapters too, all of a layer by one pair of matrices each.
        **options: of `peft.LoraConfig`, such as `lora_alpha` (by default twice the rank), `lora_dropout`, or
            `target_modules` in place of these.

    Returns:
        A `peft.LoraConfig`, for `peft.get_peft_model` or a trainer.

    Raises:
        ImportError: peft is not installed.
        ValueError: the model has no language model with layers, or no experts that adapters can be added to.
    """
    try:
        from peft import LoraConfig  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("Adapters need peft: pip install 'peft>=0.18'") from error
    settings = {"r": rank, "lora_alpha": 2 * rank, "target_modules": _linear_layers(model)}
    if experts:
        settings["target_parameters"] = _experts(model)
    return LoraConfig(**{**settings, **options})


def _linear_layers(model: nn.Module) -> str:
    """A pattern for the names of all linear layers of the language model."""
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.match(LAYERS, name)
    }
    if not names:
        raise ValueError(
            f"Found a {type(model).__name__} without linear layers in a language model; expected a DeepSeek-VL model, "
            "before adapters are added and its weights are packed."
        )
    return named_layers(names)


def _experts(model: nn.Module) -> list[str]:
    """The parameters of all routed experts, by the end of their names."""
    found = [module for module in model.modules() if isinstance(module, DeepseekMoeExperts)]
    plain = all(type(parameter) is nn.Parameter for module in found for parameter in module.parameters())
    if not found or not plain:
        what = "4-bit experts" if found else "no experts"
        raise ValueError(f"Found {what} in {type(model).__name__}; leave experts=True out.")
    return ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def with_adapters(model: nn.Module, rank: int, experts: bool, base: str, in_float32: bool = True) -> Any:
    """The model with fresh adapters, the only weights that learn.

    Args:
        model: a generation model of this package.
        rank: of the adapters.
        experts: see `lora_config`.
        base: what files name as the base model, its Hub repository or folder.
        in_float32: whether the adapters are float32 beside weights of another type.

    Raises:
        ImportError, ValueError: see `lora_config`.
    """
    config = lora_config(model, rank, experts=experts)
    from peft import get_peft_model  # noqa: PLC0415

    adapted = get_peft_model(model, config, autocast_adapter_dtype=in_float32)
    adapted.peft_config["default"].base_model_name_or_path = base  # peft puts the folder there that was opened
    keep_frozen_weights_apart(adapted)
    return adapted
