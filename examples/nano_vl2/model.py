"""The nano-vl2 model: DeepSeek-VL2's architecture in 4 million parameters, with fresh weights."""

from typing import Any

import torch
from tokenizers import AddedToken

from deepseek_vl_hf import (
    DeepseekVL2Config,
    DeepseekVL2ForConditionalGeneration,
    DeepseekVL2ImageProcessor,
    DeepseekVL2Processor,
)
from deepseek_vl_hf.conversation.chat_templates import VL2_IMAGE_TOKEN
from deepseek_vl_hf.models.deepseek_vl2.processing_deepseek_vl2 import GROUNDING_TOKENS
from nano.tokenizer import learn_merges

from .cells import PATCH
from .dataset import tokenizer_texts
from .pictures import CANDIDATES, COORDINATES, TILE

VOCABULARY = 630  # beside coordinates
PAD = "<｜▁pad▁｜>"
CONTROLS = [VL2_IMAGE_TOKEN, *GROUNDING_TOKENS, "<|User|>", "<|Assistant|>"]
HEAD_DIM = 32
WORD_SIZE = 0.08  # standard deviation of fresh embeddings
SHRUNK = 0.24  # of their size
SIZES: dict[str, Any] = {
    "vision": {"hidden_size": 192, "num_hidden_layers": 4, "intermediate_size": 512},
    # Latent attention and the sigmoid router with its correction bias, as in the base size. Heads are 48 + 16 wide,
    # which is what engines have kernels for.
    "text": {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 48,
        "qk_rope_head_dim": 16,
        "v_head_dim": 64,
        "moe_intermediate_size": 64,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "first_k_dense_replace": 1,
    },
}
ROUTER: dict[str, Any] = {
    "use_mla": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
}


def build_processor(examples: int = 6000) -> DeepseekVL2Processor:
    """The processor: tiles of `TILE` pixels, and a tokenizer trained on the questions of so many examples."""
    tokenizer = learn_merges(tokenizer_texts(examples), VOCABULARY, PAD, CONTROLS)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in coordinate_words()])
    return DeepseekVL2Processor(
        DeepseekVL2ImageProcessor(size={"height": TILE, "width": TILE}, candidate_resolutions=CANDIDATES),
        tokenizer,
        patch_size=PATCH,
    )


def coordinate_words() -> list[str]:
    """The numbers of boxes with what stands around them, so that an edge is one word and not three digits.

    As digits they have to be told apart by what was written before, and 29 and 30 have nothing in common.
    """
    return [word.format(number) for word in ("[{},", " {},", " {}]") for number in COORDINATES]


def build_config(processor: DeepseekVL2Processor) -> DeepseekVL2Config:
    """The configuration for a processor's tokenizer."""
    tokenizer = processor.tokenizer
    return DeepseekVL2Config(
        vision_config={
            **SIZES["vision"],
            "model_type": "siglip_vision_model",
            "num_attention_heads": SIZES["vision"]["hidden_size"] // HEAD_DIM,
            "image_size": TILE,
            "patch_size": PATCH,
            "hidden_act": "gelu_pytorch_tanh",
            "vision_use_head": False,
        },
        text_config={
            **SIZES["text"],
            **ROUTER,
            "num_key_value_heads": SIZES["text"]["num_attention_heads"],
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=processor.image_token_id,
    )


def build_model(processor: DeepseekVL2Processor) -> DeepseekVL2ForConditionalGeneration:
    """A model with fresh weights.

    Places of patches begin as sines, from which the tower learns sooner, and words about as large as what the language
    model's layers add to them.
    """
    model = DeepseekVL2ForConditionalGeneration(build_config(processor))
    places = model.model.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        places.copy_(_sines(TILE // PATCH, places.shape[1]))
        model.get_input_embeddings().weight.normal_(std=WORD_SIZE)
    return model


def shrink_image_tokens(model: DeepseekVL2ForConditionalGeneration) -> None:
    """Makes image tokens, which looking left ten times as large as words, small enough for layers to write into."""
    with torch.no_grad():
        for parameter in model.model.projector.linear2.parameters():
            parameter.mul_(SHRUNK)


def _sines(side: int, width: int) -> torch.Tensor:
    """[side * side, width]: sines and cosines of row and column, in four quarters."""
    frequencies = torch.exp(-torch.arange(width // 4) / (width // 4) * torch.tensor(side * 2.0).log())
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return 0.5 * torch.cat([rows, columns], -1).flatten(0, 1)
