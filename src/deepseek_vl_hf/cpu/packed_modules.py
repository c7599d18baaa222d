"""Modules for inference that keep their weights in the order in which a CPU's kernels read them."""

from collections.abc import Callable

import torch
from torch import nn

from ..hf.kernels import ImmovableModule
from ..models.deepseek_moe.experts import DeepseekMoeExperts
from .ways import PackedMatrix, way_for

CANNOT_BE_SAVED = (
    "Prepacked weights can be neither saved, copied nor replaced. Do it before prepack_weights, or load the model "
    "again."
)


class Packed(ImmovableModule):
    """A module that stays on the CPU, in one type.

    Args:
        dtype: in which it computes.

    Attributes:
        way: how its weights lie in memory.
        reason: why not in the way that is best for their type; "" if they do.
        num_bytes: what they take.
    """

    cannot_be_saved = CANNOT_BE_SAVED
    way: str
    reason: str
    num_bytes: int

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.packed_dtype = dtype

    def check_move(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Raises RuntimeError if a function that `to`, `half` or `cuda` applies would change the weight."""
        probe = torch.empty(0, dtype=self.packed_dtype)
        found = fn(probe)
        if (found.device, found.dtype) != (probe.device, probe.dtype):
            raise RuntimeError(
                f"Prepacked weights stay on the CPU in {probe.dtype}; found a move to {found.device} in {found.dtype}. "
                "Move the model before prepack_weights."
            )


class PrepackedLinear(Packed):
    """A linear layer: [..., in] -> [..., out].

    Args:
        linear: the layer to take the place of, on the CPU.
        dtype: in which the model computes.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.way, self.reason = way_for(linear.weight)
        # An opaque object: no parameter and no buffer, because it can be neither moved nor cast nor saved.
        self._matrix = PackedMatrix(self.way, linear.weight, linear.bias, dtype)
        self.num_bytes = self._matrix.num_bytes

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`; see `PackedMatrix` for what is refused."""
        return self._matrix(hidden_states)

    def extra_repr(self) -> str:
        """As `nn.Linear`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, way={self.way!r}"


class PrepackedExperts(Packed):
    """The experts of a layer of DeepSeek-VL2, each of its matrices packed by itself.

    Args:
        experts: what to take the place of, on the CPU.
        dtype: in which the model computes.
    """

    def __init__(self, experts: DeepseekMoeExperts, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.num_experts, self.act_fn = experts.num_experts, experts.act_fn
        pairs = (experts.gate_up_proj, experts.down_proj)
        # One way for all: a layer of which one expert does not fit is easier to understand as a whole.
        ways = [way_for(weight) for weight in pairs]
        self.way, self.reason = max(ways, key=lambda found: bool(found[1]))
        self._matrices = [
            [PackedMatrix(self.way, weight[expert], None, dtype) for weight in pairs]
            for expert in range(self.num_experts)
        ]
        self.num_bytes = sum(matrix.num_bytes for matrices in self._matrices for matrix in matrices)

    one_after_the_other = DeepseekMoeExperts.one_after_the_other
    of_one_token = DeepseekMoeExperts.of_one_token

    def forward(self, hidden_states: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """As `DeepseekMoeExperts`."""
        if len(hidden_states) == 1:
            return self.of_one_token(hidden_states, experts, weights)
        return self.one_after_the_other(hidden_states, experts, weights)

    def each_expert(self) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """Each matrix lies by itself already."""
        return self.one_expert

    def one_expert(self, expert: int, hidden_states: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] -> the same, by one expert."""
        gate_up, down = self._matrices[expert]
        gate, up = gate_up(hidden_states).chunk(2, -1)
        return down(self.act_fn(gate) * up)


class PrepackedEmbedding(Packed):
    """A token embedding that stays in 16 bits and is read in float32: [...] ids -> [..., width].

    Args:
        embedding: the one to take the place of.
    """

    way, reason = "16 bits, read in float32", ""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__(torch.float32)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self._weight = embedding.weight.detach()
        self.num_bytes = self._weight.numel() * self._weight.element_size()

    @property
    def weight(self) -> torch.Tensor:
        """[tokens, width], as it is kept."""
        return self._weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """As `nn.Embedding`, in float32."""
        return nn.functional.embedding(input_ids, self._weight).float()
