"""The nano model: DeepSeek-VL-Hybrid's architecture in 4 million parameters, with fresh weights."""

from typing import Any

from deepseek_vl_hf import (
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridImageProcessor,
    DeepseekVLHybridProcessor,
)
from deepseek_vl_hf.pictures.sizes import num_grid_tokens

from .dataset import tokenizer_texts
from .scenes import SIDE
from .tokenizer import train_tokenizer

PATCH = 16
LOW_RES_SIDE = SIDE // 2
NECK_CHANNELS = 48  # the SigLIP width is four times this number
HEAD_DIM = 32
SIZES: dict[str, Any] = {
    "vision": {"hidden_size": 4 * NECK_CHANNELS, "num_hidden_layers": 2},
    "high_res": {"hidden_size": 128, "num_hidden_layers": 4, "global_attn_indexes": [1, 2, 3]},
    "text": {"hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 4},
}


def build_processor() -> DeepseekVLHybridProcessor:
    """The processor: pictures of `SIDE` and half of it, and a tokenizer trained on the questions."""
    return DeepseekVLHybridProcessor(
        DeepseekVLHybridImageProcessor(
            size={"height": LOW_RES_SIDE, "width": LOW_RES_SIDE}, high_res_size={"height": SIDE, "width": SIDE}
        ),
        train_tokenizer(tokenizer_texts()),
        num_image_tokens=num_grid_tokens(LOW_RES_SIDE, PATCH),
    )


def build_config(processor: DeepseekVLHybridProcessor) -> DeepseekVLHybridConfig:
    """The configuration for a processor's tokenizer."""
    tokenizer = processor.tokenizer
    vision, high_res, text = SIZES["vision"], SIZES["high_res"], SIZES["text"]
    return DeepseekVLHybridConfig(
        vision_config={
            **vision,
            "model_type": "siglip_vision_model",
            "intermediate_size": 4 * vision["hidden_size"],
            "num_attention_heads": vision["hidden_size"] // HEAD_DIM,
            "image_size": LOW_RES_SIDE,
            "patch_size": PATCH,
            "hidden_act": "gelu",
            "vision_use_head": False,
        },
        high_res_vision_config={
            **high_res,
            "model_type": "sam_vision_model",
            "mlp_dim": 4 * high_res["hidden_size"],
            "num_attention_heads": high_res["hidden_size"] // HEAD_DIM,
            "image_size": SIDE,
            "output_channels": NECK_CHANNELS,
        },
        text_config={
            **text,
            "model_type": "llama",
            "num_attention_heads": text["hidden_size"] // HEAD_DIM,
            "num_key_value_heads": text["hidden_size"] // HEAD_DIM,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=processor.image_token_id,
    )


def build_model(processor: DeepseekVLHybridProcessor) -> DeepseekVLHybridForConditionalGeneration:
    """A model with fresh weights."""
    return DeepseekVLHybridForConditionalGeneration(build_config(processor))
