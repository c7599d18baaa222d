"""Which layers get 4-bit weights, and in what form on which device."""

from typing import Any

import torch
from transformers import TorchAoConfig
from transformers.utils import is_torchao_available

from .packing import GROUP_SIZES

QUANT_METHOD = "deepseek_vl_int4"
DEVICES = ("cpu", "cuda")

# Only the language model's linear layers and experts are quantized. Towers and aligner are small and see every detail;
# lm_head decides between neighboring words; routers decide which expert sees a word. kv_b_proj of latent attention is
# multiplied into queries while decoding, for which it has to be a plain matrix.
_OUTSIDE_THE_LANGUAGE_MODEL = (
    "vision_model",
    "high_res_vision_model",
    "high_res_vision_neck",
    "high_res_vision_proj",
    "aligner",
    "projector",
)
KEPT_AS_THEY_ARE = (
    # Names are matched as whole prefixes; the model without its head (`AutoModel`) has none of its own.
    *_OUTSIDE_THE_LANGUAGE_MODEL,
    *(f"model.{name}" for name in _OUTSIDE_THE_LANGUAGE_MODEL),
    "lm_head",
    r".*\.kv_b_proj",
)


class Int4Config(TorchAoConfig):
    """The quantization config of 4-bit weights; `int4_config` makes one.

    It stands in the `config.json` of a saved model. transformers' own config applies one torchao recipe to all linear
    layers; this one has a group size for each layer, and experts.

    Args:
        group_size: how many weights of a row share a scale and a zero, at most.
        device: the kind of device that the weights are packed for.
        modules_to_not_convert: patterns of layers that keep their type; by default all but the language model's.
        quant_method: as stored in a config file.

    Raises:
        ImportError: torchao is not installed, or too old.
        ValueError: another group size or device.
    """

    def __init__(
        self,
        group_size: int = 128,
        device: str = "cpu",
        modules_to_not_convert: list[str] | None = None,
        quant_method: str = QUANT_METHOD,
    ) -> None:
        if group_size not in GROUP_SIZES:
            raise ValueError(
                f"group_size is {group_size!r}; expected one of {', '.join(map(str, sorted(GROUP_SIZES)))}."
            )
        if device not in DEVICES:
            raise ValueError(
                f"device is {device!r}; expected {' or '.join(DEVICES)}, for which torch has 4-bit kernels."
            )
        if not is_torchao_available():  # asked before transformers does, whose message has no version
            raise ImportError(TORCHAO_NEEDED)
        self.group_size, self.device = group_size, device
        kept = KEPT_AS_THEY_ARE if modules_to_not_convert is None else modules_to_not_convert
        super().__init__(_recipe(group_size, device), list(kept))
        self.quant_method: Any = quant_method

    def to_dict(self) -> dict[str, Any]:
        """What a config file holds."""
        return {
            "quant_method": self.quant_method,
            "group_size": self.group_size,
            "device": self.device,
            "modules_to_not_convert": list(self.modules_to_not_convert or ()),
        }

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a key is not known.
        """
        known = {"group_size", "device", "modules_to_not_convert", "quant_method"}
        if unknown := sorted(set(config_dict) - known):
            raise ValueError(
                f"Found {', '.join(unknown)} in a quantization_config of {QUANT_METHOD}; expected {known}."
            )
        config = cls(**config_dict)
        return (config, kwargs) if return_unused_kwargs else config


def int4_config(group_size: int = 128, device: str | torch.device | None = None) -> Int4Config:
    """The quantization config that gives the language model's linear layers and experts 4-bit weights.

    Pass it to `from_pretrained(..., dtype=torch.bfloat16, quantization_config=int4_config())`. A layer whose width is
    no multiple of the group size gets the next smaller one that fits; if none does, it keeps its type.
    `quantization_report` shows what became of each layer.

    Args:
        group_size: how many weights of a row share a scale and a zero: 32, 64 or 128. Smaller groups are more exact;
            32 takes 5 bits for each weight, 128 takes 4.25.
        device: where the model will be; by default a CUDA device if there is one, else the CPU.

    Raises:
        ImportError: torchao is not installed, or too old.
        ValueError: another group size, or a device without 4-bit kernels.
    """
    wanted = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Int4Config(group_size, wanted.partition(":")[0])


TORCHAO_NEEDED = "4-bit weights need torchao 0.18 or newer, which is not installed here: pip install 'torchao>=0.18'"


def _recipe(group_size: int, device: str) -> Any:
    """Torchao's name for the kernels: what other tools see as `quant_type`."""
    try:
        from ..hf.torchao import Int4WeightOnlyConfig, PrototypeInt4WeightOnlyConfig  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(TORCHAO_NEEDED) from error
    if device == "cpu":
        return PrototypeInt4WeightOnlyConfig(group_size=group_size, set_inductor_config=False)
    return Int4WeightOnlyConfig(
        group_size=group_size, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
    )
