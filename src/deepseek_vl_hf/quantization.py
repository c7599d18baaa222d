"""4-bit weights with TorchAO: which recipe works on which device, and which layers it is for."""

import torch
from transformers import TorchAoConfig

GROUP_SIZES = (32, 64, 128, 256)

# Only the text model's layers are quantized. Towers and aligner are small and see every detail;
# lm_head decides between neighbouring words.
KEPT_AS_THEY_ARE = (
    "vision_model",
    "high_res_vision_model",
    "high_res_vision_neck",
    "high_res_vision_proj",
    "aligner",
    "projector",
)


def int4_config(group_size: int = 128, device: str | torch.device | None = None) -> TorchAoConfig:
    """The quantization config that gives the text model's linear layers 4-bit weights.

    Pass it to `from_pretrained(..., dtype=torch.bfloat16, quantization_config=int4_config())`. Layers whose width is no
    multiple of the group size keep their type, and so do the experts of DeepSeek-VL2, which are no linear layers.

    Args:
        group_size: how many weights of a row share a scale and a zero point: 32, 64, 128 or 256.
        device: where the model will be; by default a CUDA device if there is one, else the CPU.

    Raises:
        ImportError: torchao is not installed, or lacks the recipe.
        ValueError: another group size.
    """
    if group_size not in GROUP_SIZES:
        raise ValueError(f"group_size is {group_size}; expected one of {', '.join(map(str, GROUP_SIZES))}.")
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    try:
        if kind == "cuda":
            from torchao.quantization import Int4WeightOnlyConfig  # noqa: PLC0415

            recipe = Int4WeightOnlyConfig(
                group_size=group_size, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
            )
        else:
            from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig  # noqa: PLC0415

            recipe = PrototypeInt4WeightOnlyConfig(group_size=group_size, set_inductor_config=False)
    except ImportError as error:
        raise ImportError(
            "4-bit weights need torchao 0.18 or newer, which is not installed here: pip install 'torchao>=0.18'"
        ) from error
    # Names are matched as whole prefixes; the model without its head (`AutoModel`) has none of its own.
    whole = [f"model.{name}" for name in KEPT_AS_THEY_ARE]
    return TorchAoConfig(recipe, modules_to_not_convert=[*KEPT_AS_THEY_ARE, *whole, "lm_head"])
