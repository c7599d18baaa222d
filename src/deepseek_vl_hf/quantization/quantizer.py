"""How transformers makes, loads and saves 4-bit weights: parameter by parameter, while a checkpoint is read."""

from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name, should_convert_module
from transformers.utils import logging

from ..models.deepseek_vl2.experts import BY_DEVICE, DeepseekVL2Experts
from .config import Int4Config
from .packing import group_size_for

logger = logging.get_logger(__name__)

DTYPES = {"cpu": (torch.bfloat16, torch.float32), "cuda": (torch.bfloat16,)}
EXPERTS_ONE_BY_ONE = (BY_DEVICE, "eager")
PARAMETERS = ("weight", "gate_up_proj", "down_proj")


class Int4Quantizer(TorchAoHfQuantizer):
    """Puts an `Int4Config` to work; transformers makes one in `from_pretrained`."""

    quantization_config: Int4Config
    # Adapters can be trained on top (the weights themselves cannot, which `Trainer` checks).
    is_trainable = True
    serialized_names: dict[str, list[str]] = {}

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Checks the model's type.

        Raises:
            ValueError: there is no 4-bit kernel for it on the device.
        """
        allowed = DTYPES[self.quantization_config.device]
        if dtype not in allowed:
            raise ValueError(
                f"The model is to be loaded in {dtype}; 4-bit weights on {self.quantization_config.device} expect "
                f"{' or '.join(map(str, allowed))}. Pass dtype=torch.bfloat16 to from_pretrained."
            )
        self.dtype = dtype
        return dtype

    def update_device_map(self, device_map: dict[str, Any] | None) -> dict[str, Any] | None:
        """Checks where the model is to be; "auto" becomes the CPU if the weights are packed for it.

        Raises:
            ValueError: the device map names a device of another kind.
        """
        wanted = self.quantization_config.device
        if isinstance(device_map, str) and wanted == "cpu":
            device_map = {"": "cpu"}
        places = {"": "cpu"} if device_map is None else device_map if isinstance(device_map, dict) else {}
        others = {str(place) for place in places.values() if _kind(place) not in (wanted, "meta")}
        if others and not (wanted == "cuda" and others <= {"cpu"} and len(places) > 1):  # parts may be offloaded
            found = "The weights were packed" if self.pre_quantized else "int4_config packs weights"
            raise ValueError(
                f"{found} for {wanted}, but the model is to be on {', '.join(sorted(others))}. Pass "
                f"device_map={wanted!r}, or quantize the original checkpoint with "
                f"int4_config(device={_kind(sorted(others)[0])!r})."
            )
        return device_map

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether a parameter is among the chosen ones and of a width that some group size divides."""
        if not should_convert_module(param_name, self.modules_to_not_convert):
            return False
        module, leaf = get_module_from_name(model, param_name)
        linear = isinstance(module, nn.Linear) and leaf == "weight"
        experts = isinstance(module, DeepseekVL2Experts) and leaf in PARAMETERS
        if not (linear or experts):
            return False
        return group_size_for(tuple(getattr(module, leaf).shape), self.quantization_config.group_size) is not None

    def get_quantize_ops(self) -> ConversionOps:
        """What makes 4 bits of one parameter."""
        from .operations import Quantize  # noqa: PLC0415 - torchao is optional

        return Quantize(self)

    def get_weight_conversions(self) -> list[WeightConverter]:
        """What puts parameters together from the tensors of a quantized checkpoint."""
        if not self.pre_quantized:
            return []
        from .operations import Load, stored_names  # noqa: PLC0415

        return [WeightConverter(stored_names(name), name, operations=[Load(self)]) for name in PARAMETERS]

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """What is saved."""
        from .operations import stored_tensors  # noqa: PLC0415

        return dict(part for name, tensor in model.state_dict().items() for part in stored_tensors(name, tensor)), {}

    def set_metadata(self, checkpoint_files: list[str]) -> None:
        """Nothing: names and shapes say all that torchao keeps in a file's metadata."""

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        if not any(hasattr(parameter, "qdata") for parameter in model.parameters()):
            raise ValueError(
                "No layer of the language model has a width that a group size of "
                f"{self.quantization_config.group_size} or less divides, so none got 4-bit weights. Load the model "
                "without quantization_config."
            )
        experts = next((module for module in model.modules() if isinstance(module, DeepseekVL2Experts)), None)
        if experts is not None and experts.config._experts_implementation not in EXPERTS_ONE_BY_ONE:
            from .tensors import ONE_BY_ONE  # noqa: PLC0415

            raise ValueError(f"Found experts_implementation={experts.config._experts_implementation!r}. {ONE_BY_ONE}")
        return model


def _kind(place: Any) -> str:
    """The kind of a place in a device map: a number is a CUDA device."""
    return "cuda" if isinstance(place, int) else str(place).partition(":")[0]
