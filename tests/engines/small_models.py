"""Small checkpoints with random weights whose heads are wide enough for vLLM's attention on a CPU."""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.nano.folder import nano_path
from family import FamilyFixture

# Latents of the published widths, because vLLM's kernel for them on a CPU knows no others.
LATENT = {"kv_lora_rank": 512, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 32}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}


def write_small_model(family: FamilyFixture, folder: Path) -> None:
    """Writes a checkpoint of the family, its files those of the fixture, its language model with wider heads.

    The weights are drawn so that greedy answers hold different tokens, and stored in float32.
    """
    config = family.model.config.__class__.from_pretrained(family.converted)
    text = config.text_config.to_dict()
    text |= LATENT if text.get("use_mla") else HEADS | ({"head_dim": 32} if "head_dim" in text else {})
    config = config.__class__(**{**config.to_dict(), "text_config": text})
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # large enough to change the choice of experts
            torch.nn.init.normal_(buffer, std=0.3)
    model.generation_config.eos_token_id = None  # random answers would end at random
    model.save_pretrained(folder)
    family.processor.save_pretrained(folder)


def write_nano(folder: Path) -> None:
    """Converts the packaged model, in float32."""
    convert_checkpoint(nano_path(), folder, dtype=torch.float32)
