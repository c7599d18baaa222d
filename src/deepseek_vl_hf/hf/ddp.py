"""torch's data parallelism (DDP) beside weights that it cannot handle."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def keep_frozen_weights_apart(model: nn.Module) -> None:
    """Has DDP, where a model is put into it, leave the weights alone that do not learn.

    It would send them from the first process to the others, which packed ones cannot be; they are alike anyway.
    """
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
