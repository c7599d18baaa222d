"""The base class of quantizers: what transformers calls while it loads and saves, on its public `HfQuantizer`."""

from typing import Any

import torch
from torch import nn
from transformers.quantizers import HfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name, should_convert_module


class ParameterQuantizer(HfQuantizer):
    """A quantizer that chooses parameters by their names and converts them one by one as they are read."""

    requires_calibration = False
    # Bytes of a number that is quantized.
    quantized_element_size: float | None = None
    modules_to_not_convert: list[str] = []

    def preprocess_model(self, model: Any, dtype: Any = None, **kwargs: Any) -> Any:
        """See `HfQuantizer.preprocess_model`: called before the weights are read."""
        kept = self.quantization_config.modules_to_not_convert
        self.modules_to_not_convert = self.get_modules_to_not_convert(model, kept, model._keep_in_fp32_modules)
        return super().preprocess_model(model, dtype=dtype, **kwargs)

    def is_chosen(self, param_name: str) -> bool:
        """Whether a parameter is of none of the modules that keep their type."""
        return bool(should_convert_module(param_name, self.modules_to_not_convert))

    def is_serializable(self) -> bool:
        """Whether models can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether adapters can be trained on top; the weights themselves cannot, which `Trainer` checks."""
        return True

    def param_element_size(self, model: Any, param_name: str, param: torch.Tensor) -> float:
        """Bytes of one number, by which devices are filled; before 5.21 transformers does not ask for the share."""
        share = self.quantized_element_size
        return share if share and self.param_needs_quantization(model, param_name) else float(param.element_size())

    def adjust_max_memory(self, max_memory: dict[str, int | str]) -> dict[str, int | str]:
        """Leaves a tenth for what quantizing takes while it lasts."""
        return {device: int(limit * 0.9) if isinstance(limit, int) else limit for device, limit in max_memory.items()}


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that a parameter belongs to, and the parameter's name in it."""
    return get_module_from_name(model, name)
