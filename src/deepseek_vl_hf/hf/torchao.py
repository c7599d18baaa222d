"""torchao's classes of 4-bit weights, from where they lie in 0.18. Importing this needs torchao."""

from torchao.prototype.quantization.int4 import Int4OpaqueTensor, PrototypeInt4WeightOnlyConfig
from torchao.quantization import Int4TilePackedTo4dTensor, Int4WeightOnlyConfig
from torchao.utils import TorchAOBaseTensor

__all__ = [
    "Int4OpaqueTensor",
    "Int4TilePackedTo4dTensor",
    "Int4WeightOnlyConfig",
    "PrototypeInt4WeightOnlyConfig",
    "TorchAOBaseTensor",
]
