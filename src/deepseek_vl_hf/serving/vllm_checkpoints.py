"""Which checkpoints vLLM can take, from their config.json alone; nothing here needs vLLM."""

from collections.abc import Mapping
from typing import Any

from ..checkpoints.layouts.deepseek_ocr import is_deepseek_ocr
from ..checkpoints.layouts.original import MODEL_TYPES, is_another_model, is_janus
from ..models.families import DEEPSEEK_OCR, FAMILIES

# Widths of a head for which vLLM's attention on a CPU is compiled (0.32).
CPU_HEAD_WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
# DeepSeek-OCR, whose tiles are apart from the view of the whole, vLLM reads with code of its own, and as published.
IN_VLLM = tuple(family for family in FAMILIES if family is not DEEPSEEK_OCR)
_FAMILIES = {family.config.model_type: family for family in IN_VLLM}


def refusal(config: Mapping[str, Any], name: str, on_cpu: bool) -> str | None:
    """Why vLLM cannot take a checkpoint with this config.json; None if it can.

    Args:
        config: what stands in the file.
        name: of the checkpoint, for the sentence.
        on_cpu: whether vLLM would compute on a CPU.
    """
    kind = config.get("model_type")
    if kind == DEEPSEEK_OCR.config.model_type or is_deepseek_ocr(dict(config)):
        return (
            f"{name} is DeepSeek-OCR, which vLLM runs with its own code alone: vllm serve, with the published files. "
            "Here it is served by transformers: --engine transformers."
        )
    if kind in MODEL_TYPES and not is_janus(dict(config)) and not is_another_model(dict(config)):
        return (
            f"{name} is in the original layout, whose weights vLLM cannot read. Convert it first: "
            f"deepseek-vl convert {name} DST"
        )
    family = _FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        return f"{name} has the model_type {kind!r}; expected one of {', '.join(_FAMILIES)}."
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        return (
            f"{name} holds weights that are quantized by {method!r}, for which vLLM has no layers in this model. Name "
            "a checkpoint with plain weights."
        )
    width = head_width(family.config(**config).get_text_config())
    if on_cpu and width not in CPU_HEAD_WIDTHS:
        return (
            f"{name} has heads of width {width}; vLLM's attention on a CPU has {', '.join(map(str, CPU_HEAD_WIDTHS))}. "
            "Use transformers' server: --engine transformers."
        )
    return None


def head_width(text_config: Any) -> int:
    """Numbers of a query in one head of a language model, given its config."""
    if getattr(text_config, "use_mla", False):
        return int(text_config.qk_head_dim)
    return int(text_config.head_dim or text_config.hidden_size // text_config.num_attention_heads)
