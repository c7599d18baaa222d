"""The MLPs of DeepSeek-MoE (arXiv 2401.06066): one dense, or routed experts beside shared ones.

hidden [tokens, hidden]
  --router--> weights, experts [tokens, chosen]
  --experts, each on its tokens--> [tokens, hidden]; the weighted sum is formed in float32
  + shared experts, one MLP of their joint width, on every token
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from ...hf.experts import experts_function, use_experts_implementation
from .configuration_deepseek_moe import DeepseekMoeConfig
from .expert_weights import fuse_experts

# With more, a loop that adds up expert by expert reads less memory than grouped products do (2 CPU cores, bfloat16).
FEW_TOKENS = 128
BY_DEVICE = "by_device"
# torch's grouped products want each row to begin at a multiple of so many bytes.
GROUPED_BYTES = 16


class DeepseekMoeMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DeepseekMoeConfig, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> the same."""
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class DeepseekMoeRouter(nn.Module):
    """Chooses experts in float32.

    softmax, greedy (tiny, small): the largest of the softmax over all experts, weighted with it.
    sigmoid, noaux_tc (base; DeepSeek-V3, arXiv 2412.19437, section 2.1.2): the largest sums of sigmoid and a correction
    bias, weighted with the sigmoids alone. Only experts of the best groups can be chosen; a group is as good as its two
    best experts together. Published models have one group.
    """

    def __init__(self, config: DeepseekMoeConfig) -> None:
        super().__init__()
        self.num_experts_per_tok = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob
        self.routed_scaling_factor = config.routed_scaling_factor
        self.softmax = config.scoring_func == "softmax"
        self.n_group, self.topk_group = config.n_group, config.topk_group
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        if not self.softmax:
            self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[tokens, hidden] -> logits [tokens, experts], weights and indices [tokens, chosen]; numbers in float32."""
        with torch.autocast(hidden_states.device.type, enabled=False):
            logits = functional.linear(hidden_states.float(), self.weight.float())
        return logits, *self.choose(logits)

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """What experts are weighted with, of the same shape as the logits."""
        return logits.softmax(-1) if self.softmax else logits.sigmoid()

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [tokens, experts] -> weights and indices [tokens, chosen]."""
        scores = self.scores(logits)
        experts = self._preferences(scores).topk(self.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(-1, experts)
        if self.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.routed_scaling_factor, experts

    def _preferences(self, scores: torch.Tensor) -> torch.Tensor:
        if self.softmax:
            return scores
        preferences = scores + self.e_score_correction_bias.float()
        if self.topk_group == self.n_group:
            return preferences
        groups = preferences.unflatten(-1, (self.n_group, -1))
        best = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(-1).topk(self.topk_group, dim=-1).indices
        kept = torch.zeros_like(groups[..., 0], dtype=torch.bool).scatter(-1, best, True)
        return groups.masked_fill(~kept[..., None], -torch.inf).flatten(-2)


@use_experts_implementation
class DeepseekMoeExperts(nn.Module):
    """All experts of a layer; gate and up projection of each lie one after the other."""

    def __init__(self, config: DeepseekMoeConfig) -> None:
        super().__init__()
        self.num_experts = config.n_routed_experts
        self.gate_up_proj = nn.Parameter(
            torch.empty(self.num_experts, 2 * config.moe_intermediate_size, config.hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, config.hidden_size, config.moe_intermediate_size))
        # Its function, not the module: that would be called as often as there are experts with tokens, and DeepSpeed's
        # ZeRO-3 stalls where processes call modules in other orders.
        self.act_fn = ACT2FN[config.hidden_act].forward
        self.register_load_state_dict_pre_hook(fuse_experts)

    def forward(self, hidden_states: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """One expert after the other, each on its tokens; the sum is formed in float32, as in the original.

        Args:
            hidden_states: [tokens, hidden].
            experts: [tokens, chosen], indices of experts; those from `num_experts` on are another process's.
            weights: [tokens, chosen], float32.

        Returns:
            [tokens, hidden].
        """
        return self.one_after_the_other(hidden_states, experts, weights)

    def one_after_the_other(
        self, hidden_states: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """What `forward` does where the config asks for no other implementation."""
        ordered, order = experts.flatten().sort(stable=True)
        tokens, weights = order // experts.shape[1], weights.flatten()[order, None]
        result = torch.zeros_like(hidden_states, dtype=torch.float32)
        one_expert = self.each_expert()
        start = 0
        for expert, count in enumerate(ordered.bincount(minlength=self.num_experts).tolist()[: self.num_experts]):
            part = slice(start, start + count)
            start += count
            if count:
                output = one_expert(expert, hidden_states[tokens[part]])
                result.index_add_(0, tokens[part], output * weights[part])
        return result.to(hidden_states.dtype)

    def of_one_token(self, hidden_states: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The same for a single token, whose experts need no sorting."""
        here = [(place, expert) for place, expert in enumerate(experts[0].tolist()) if expert < self.num_experts]
        outputs = [weights[0, place] * self.one_expert(expert, hidden_states) for place, expert in here]
        return sum(outputs, torch.zeros_like(hidden_states, dtype=torch.float32)).to(hidden_states.dtype)

    def each_expert(self) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """`one_expert`, for many of them.

        Weights that learn are taken apart once, and their gradients put together once. Otherwise each expert's gradient
        would be filled up to the size of all of them and added, which took twenty times as long as everything else.
        """
        both = (self.gate_up_proj, self.down_proj)
        return partial(self.one_expert, weights=[each.unbind() if each.requires_grad else each for each in both])

    def one_expert(
        self, expert: int, hidden_states: torch.Tensor, weights: Sequence[Any] | None = None
    ) -> torch.Tensor:
        """[tokens, hidden] -> the same, by one expert.

        Args:
            expert: its number.
            hidden_states: [tokens, hidden].
            weights: both parameters, if they were taken apart.
        """
        gate_up_proj, down_proj = weights or (self.gate_up_proj, self.down_proj)
        gate, up = functional.linear(hidden_states, gate_up_proj[expert]).chunk(2, -1)
        return functional.linear(self.act_fn(gate) * up, down_proj[expert])


def experts_by_device(
    self: DeepseekMoeExperts, hidden_states: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The fastest way for device and number of tokens; arguments as of `DeepseekMoeExperts.forward`.

    transformers' grouped products, which never wait for the host; on a CPU loops over the experts of one token, and of
    many tokens (`benchmarks/experts.py` has the figures). Where there are no grouped products, it is always loops: for
    quantized weights, and for rows that do not begin at multiples of 16 bytes (in compiled code batched products).
    """
    both = (self.gate_up_proj, self.down_proj)
    if any(type(weight) is not nn.Parameter for weight in both):
        return self.one_after_the_other(hidden_states, experts, weights)
    dtype = _autocast_dtype(hidden_states.device.type, self.down_proj.dtype)
    grouped = all(weight.shape[-1] * dtype.itemsize % GROUPED_BYTES == 0 for weight in both)
    if torch.compiler.is_compiling():
        return experts_at_once(self, hidden_states, experts, weights, "grouped_mm" if grouped else "batched_mm")
    on_cpu = hidden_states.device.type == "cpu"
    if on_cpu and len(hidden_states) == 1:
        return self.of_one_token(hidden_states, experts, weights)
    if not grouped or (on_cpu and len(hidden_states) > FEW_TOKENS):
        return self.one_after_the_other(hidden_states, experts, weights)
    return experts_at_once(self, hidden_states, experts, weights)


def experts_at_once(
    self: DeepseekMoeExperts,
    hidden_states: torch.Tensor,
    experts: torch.Tensor,
    weights: torch.Tensor,
    name: str = "grouped_mm",
) -> torch.Tensor:
    """All experts together, by products of transformers and in the type of autocast, which does not know them.

    Arguments as of `DeepseekMoeExperts.forward`; `name` is transformers' for them.
    """
    dtype = _autocast_dtype(hidden_states.device.type, self.down_proj.dtype)
    return experts_function(name)(_with_weights_in(dtype, self), hidden_states, experts, weights)


def _autocast_dtype(device_type: str, otherwise: torch.dtype) -> torch.dtype:
    """The type that autocast computes products in; the other one outside of it."""
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else otherwise


def _with_weights_in(dtype: torch.dtype, experts: DeepseekMoeExperts) -> DeepseekMoeExperts:
    """The same experts with weights of another type."""
    if experts.down_proj.dtype == dtype:
        return experts
    others = copy(experts)
    for name, weight in (("gate_up_proj", experts.gate_up_proj), ("down_proj", experts.down_proj)):
        object.__setattr__(others, name, weight.to(dtype))  # not among the parameters, which both share
    return others


class DeepseekMoeBlock(nn.Module):
    """Routed experts, and the shared ones, which are one MLP of their joint width."""

    def __init__(self, config: DeepseekMoeConfig) -> None:
        super().__init__()
        self.gate = DeepseekMoeRouter(config)
        self.experts = DeepseekMoeExperts(config)
        self.shared_experts = DeepseekMoeMLP(config, config.n_shared_experts * config.moe_intermediate_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, sequence, hidden] -> the same."""
        tokens = hidden_states.flatten(0, 1)
        _, weights, experts = self.gate(tokens)
        routed = self.experts(tokens, experts, weights).view_as(hidden_states)
        return routed + self.shared_experts(hidden_states)


def balance_loss(
    router: DeepseekMoeRouter,
    logits: torch.Tensor,
    members: torch.Tensor,
    sequence_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """How unevenly one layer's tokens choose experts: 1 where all are chosen alike (arXiv 2401.06066, section 3.3).

    Per sequence the sum over experts of the share of choices that fall on an expert, times the number of experts, times
    the mean score of that expert; the weighted sum over sequences. Without its coefficient.

    Args:
        router: of the layer.
        logits: [tokens, experts].
        members: [sequences, tokens], 1 where a token is one of a sequence's; padding is none's.
        sequence_weights: [sequences]; None for their mean.
    """
    scores = router.scores(logits)
    scores = scores / scores.sum(-1, keepdim=True)
    _, experts = router.choose(logits)
    chosen = torch.zeros_like(scores).scatter(-1, experts, 1.0)
    # One matrix for all sequences: sums by index come in no fixed order on a GPU.
    share = members.to(scores) / members.sum(-1, keepdim=True).clamp(min=1).to(scores)
    frequencies = (share @ chosen) * (logits.shape[-1] / experts.shape[-1])
    losses = (frequencies * (share @ scores)).sum(-1)
    return losses.mean() if sequence_weights is None else losses @ sequence_weights.to(losses)


def members_of_sequences(
    labels: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> torch.Tensor:
    """Which tokens make up each sequence: a row of a batch, or where rows are packed, each part of a row.

    Args:
        labels: [batch, sequence].
        attention_mask: [batch, past + sequence], 0 at padding; any other mask is not read.
        position_ids: [batch, sequence]. Without a mask they tell where a row's next sequence begins, as they do for
            transformers' attention.

    Returns:
        [sequences, batch * sequence], 1 or 0.
    """
    begins = torch.zeros_like(labels, dtype=torch.bool)
    if attention_mask is None and position_ids is not None:
        begins[:, 1:] = position_ids.expand(labels.shape).diff(dim=-1) != 1
    begins[:, 0] = True
    members = functional.one_hot(begins.flatten().cumsum(0) - 1).T
    if attention_mask is not None and attention_mask.ndim == 2:
        members = members * (attention_mask[:, -labels.shape[1] :] != 0).flatten()
    return members
