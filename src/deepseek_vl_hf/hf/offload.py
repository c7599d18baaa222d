"""Reading a parameter of a module that was offloaded."""

import torch
from accelerate.utils import align_module_device
from torch import nn


def resident(module: nn.Module, name: str) -> torch.Tensor:
    """A module's own parameter, fetched from memory or disk if it was offloaded.

    accelerate brings a module's own parameters back while its `forward` runs. `generate` calls `get_image_features`
    directly, so what that method reads of the model itself has to be fetched by hand.
    """
    parameter = getattr(module, name)
    if not parameter.is_meta:
        return parameter
    with align_module_device(module):
        return getattr(module, name)
