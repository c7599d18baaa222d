"""How transformers makes, loads and saves 4-bit weights: parameter by parameter, while a checkpoint is read."""

from typing import Any

import torch
from torch import nn
from transformers.utils import is_torchao_available, logging

from ..hf.experts import experts_of
from ..hf.loading import ConversionOps, WeightConverter
from ..hf.quantizer import ParameterQuantizer, owner_of
from ..models.deepseek_moe.experts import BY_DEVICE, DeepseekMoeExperts
from ..models.weights import has_4_bits
from .config import TORCHAO_NEEDED, Int4Config
from .packing import group_size_for

logger = logging.get_logger(__name__)

DTYPES = {"cpu": (torch.bfloat16, torch.float32), "cuda": (torch.bfloat16,)}
ELSEWHERE = "For another kind of device quantize the original checkpoint there: int4_config(device='cpu' or 'cuda')."
EXPERTS_ONE_BY_ONE = (BY_DEVICE, "eager")
PARAMETERS = ("weight", "gate_up_proj", "down_proj")


class Int4Quantizer(ParameterQuantizer):
    """Puts an `Int4Config` to work; transformers makes one in `from_pretrained`."""

    quantization_config: Int4Config
    quantized_element_size = 0.5
    _has_experts = False

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Asked before a checkpoint is opened.

        Raises:
            ImportError: torchao is not installed.
        """
        if not is_torchao_available():
            raise ImportError(TORCHAO_NEEDED)

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

    def update_device_map(self, device_map: Any) -> Any:
        """Checks where the model is to be; "auto" and no word are the kind of device that weights are packed for.

        Raises:
            ValueError: the device map names a device of another kind, or there is none of the kind.
        """
        wanted = self.quantization_config.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"{self._packed} for cuda, of which there is no device here. {ELSEWHERE}")
        if wanted == "cuda" and device_map is None:
            return {"": "cuda"}
        if isinstance(device_map, str) and wanted == "cpu":
            return {"": "cpu"}
        places = device_map.values() if isinstance(device_map, dict) else ()
        others = sorted({str(place) for place in places if _kind(place) != wanted})
        if others:
            raise ValueError(
                f"{self._packed} for {wanted}, but the model is to be on {', '.join(others)}. Pass "
                f"device_map={wanted!r}. {ELSEWHERE}"
            )
        return device_map

    @property
    def _packed(self) -> str:
        return "The weights were packed" if self.pre_quantized else "int4_config packs weights"

    @property
    def is_compileable(self) -> bool:
        """Whole, unless there are experts, whose number of tokens the host has to know."""
        return not self._has_experts

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether a parameter is among the chosen ones and of a width that some group size divides."""
        if not self.is_chosen(param_name):
            return False
        module, leaf = owner_of(model, param_name)
        linear = isinstance(module, nn.Linear) and leaf == "weight"
        experts = isinstance(module, DeepseekMoeExperts) and leaf in PARAMETERS
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

    def preprocess_model(self, model: nn.Module, dtype: Any = None, **kwargs: Any) -> Any:
        """Called before the weights are read.

        Raises:
            ValueError: the experts are to be multiplied in a way that there is not for 4 bits.
        """
        experts = next((module for module in model.modules() if isinstance(module, DeepseekMoeExperts)), None)
        self._has_experts = experts is not None
        if experts is not None and experts_of(experts.config) not in EXPERTS_ONE_BY_ONE:
            raise ValueError(
                f"Found experts_implementation={experts_of(experts.config)!r}. 4-bit experts are multiplied one by "
                "one. Leave it out."
            )
        return super().preprocess_model(model, dtype=dtype, **kwargs)

    def postprocess_model(self, model: nn.Module, **kwargs: Any) -> Any:
        """Called when the weights are read.

        Raises:
            ValueError: none of them got 4 bits.
        """
        packed = list(filter(has_4_bits, model.parameters()))
        if not packed:
            raise ValueError(
                "No layer of the language model has a width that a group size of "
                f"{self.quantization_config.group_size} or less divides, so none got 4-bit weights. Load the model "
                "without quantization_config."
            )
        for parameter in packed:
            parameter.requires_grad_(False)
        return super().postprocess_model(model, **kwargs)


def _kind(place: Any) -> str:
    """The kind of a place in a device map: a number is a CUDA device."""
    return "cuda" if isinstance(place, int) else str(place).partition(":")[0]
