"""DeepSeek-VL-Hybrid twice: this package's and transformers' own classes, with the same weights in the same memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.models.deepseek_vl_hybrid.configuration_deepseek_vl_hybrid import (
    DeepseekVLHybridConfig as PortConfig,
)
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil as PortImageProcessor,
)
from transformers.models.deepseek_vl_hybrid.modeling_deepseek_vl_hybrid import (
    DeepseekVLHybridForConditionalGeneration as PortModel,
)
from transformers.models.deepseek_vl_hybrid.processing_deepseek_vl_hybrid import (
    DeepseekVLHybridProcessor as PortProcessor,
)

from deepseek_vl_hf import (
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridImageProcessor,
    DeepseekVLHybridProcessor,
)

# The published tokenizers are not at hand; these have the same special tokens.
TOKENIZERS = Path(__file__).parent.parent / "tests" / "fixtures"
TOKENIZER = TOKENIZERS / "vl_hybrid" / "checkpoint"
IMAGE_TOKENS = 576
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OURS, PORT = "deepseek_vl_hf", "transformers"


@dataclass(frozen=True)
class Implementation:
    """One of the two: a model and its processor."""

    model: Any
    processor: Any


def implementations(layers: int, dtype: torch.dtype) -> dict[str, Implementation]:
    """Both implementations at the published sizes, with random weights that they share.

    Args:
        layers: of the language model; the published one has 30.
        dtype: of the weights.
    """
    config = DeepseekVLHybridConfig()
    config.text_config.num_hidden_layers = layers
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image_placeholder>")
    fields = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    torch.manual_seed(0)
    ours = build(DeepseekVLHybridForConditionalGeneration, config, dtype)
    _draw_weights(ours)
    port = build(PortModel, PortConfig(**fields), dtype, ours)
    settings = {"tokenizer": tokenizer, "num_image_tokens": IMAGE_TOKENS}
    processor = DeepseekVLHybridProcessor(DeepseekVLHybridImageProcessor(), **settings)
    port_processor = PortProcessor(PortImageProcessor(), chat_template=processor.chat_template, **settings)
    return {OURS: Implementation(ours, processor), PORT: Implementation(port, port_processor)}


def build(cls: Any, config: Any, dtype: torch.dtype, lender: Any = None) -> Any:
    """A model without weights of its own where another one lends them."""
    with torch.device("meta"):
        model = cls(config).to(dtype)
    if lender is not None:
        model.load_state_dict(lender.state_dict(), assign=True, strict=True)
        lent = dict(lender.named_buffers())
        for name, buffer in list(model.named_buffers()):
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner).register_buffer(leaf, lent[name].to(buffer.dtype), persistent=False)
        return model.eval()
    return _materialize(model).eval()


def _materialize(model: Any) -> Any:
    """Gives a model on the meta device memory, and its buffers their values."""
    model.to_empty(device=DEVICE)
    rotary = model.model.language_model.rotary_emb
    frequencies = rotary.compute_default_rope_parameters(rotary.config)[0]
    for buffer in (rotary.inv_freq, rotary.original_inv_freq):
        buffer.copy_(frequencies)
    places = getattr(model.model.vision_model.embeddings, "position_ids", None)
    if places is not None:
        places.copy_(torch.arange(places.shape[-1])[None])
    return model


@torch.no_grad()
def _draw_weights(model: Any) -> None:
    for parameter in model.parameters():
        parameter.normal_(std=0.02)


@torch.no_grad()
def draw_scaled_weights(model: Any) -> None:
    """Norms about 1, so that attention and routers tell tokens apart as those of a trained model do."""
    for name, parameter in model.named_parameters():
        parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.02)
