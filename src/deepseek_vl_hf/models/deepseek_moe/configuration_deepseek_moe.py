"""Configuration of DeepSeek-MoE."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# How the router scores experts and chooses among them: tiny and small, base.
ROUTERS = (("softmax", "greedy"), ("sigmoid", "noaux_tc"))
# Coefficients of the auxiliary loss in training (arXiv 2412.10302, table 1), by scoring function.
AUX_LOSS_COEFFICIENTS = {"softmax": 1e-3, "sigmoid": 1e-4}
_EXPERTS = "layers.*.mlp.experts"


@strict
class DeepseekMoeConfig(PreTrainedConfig):
    """Configuration of `DeepseekMoeModel`: DeepSeek-MoE (arXiv 2401.06066) with multi-head or latent attention.

    Where a field is absent, the original's default holds (which is not that of transformers' `DeepseekV2Config`).

    Args:
        vocab_size: tokens.
        hidden_size: width of the model.
        intermediate_size: width of the dense layers' MLP.
        moe_intermediate_size: width of one expert.
        num_hidden_layers: layers, dense ones included.
        num_attention_heads: heads of the attention.
        num_key_value_heads: heads of keys and values; absent means as many as there are of queries.
        first_k_dense_replace: how many of the first layers have one MLP instead of experts.
        n_routed_experts: experts per layer.
        n_shared_experts: experts that see every token; they are computed as one MLP of their joint width.
        num_experts_per_tok: experts that the router chooses for a token.
        routed_scaling_factor: factor of the routed experts' weights.
        norm_topk_prob: whether the chosen experts' weights are divided by their sum.
        scoring_func: how the router turns logits into scores: "softmax" or "sigmoid".
        topk_method: how it chooses: "greedy" after a softmax, "noaux_tc" (with a correction bias) after sigmoids.
        n_group: groups of experts; "noaux_tc" chooses groups first.
        topk_group: how many groups it chooses.
        output_router_logits: whether the router's logits are returned, and with labels the auxiliary loss added.
        router_aux_loss_coef: coefficient of the auxiliary loss; absent means the paper's.
        use_mla: whether attention is latent.
        kv_lora_rank: width of a latent; None without latent attention, by which engines tell the two kinds apart.
        q_lora_rank: None; no published model compresses its queries.
        qk_nope_head_dim: width of a head's queries and keys without position.
        qk_rope_head_dim: width of the rotary part of queries and keys.
        v_head_dim: width of a head's values.
        hidden_act: activation of all MLPs.
        max_position_embeddings: positions of training.
        rms_norm_eps: of all RMSNorms.
        rope_parameters: rotary embedding; absent means theta 10000 without scaling.
        attention_bias: whether the attention's projections have biases.
        attention_dropout: share of dropped attention weights while training.
        initializer_range: standard deviation of fresh weights.
        use_cache: whether a cache is returned.
        bos_token_id: the id that begins a prompt.
        eos_token_id: the id that ends an answer.
        pad_token_id: the id of padding.
        tie_word_embeddings: whether `lm_head` shares the token embedding's weight.

    Raises:
        ValueError: a router, activation or rotary embedding that this model does not have, or groups that do not fit.
    """

    model_type = "deepseek_vl2_text"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {"num_experts": "n_routed_experts"}
    base_model_tp_plan = {
        **{f"layers.*.self_attn.{name}_proj": "colwise" for name in ("q", "k", "v", "kv_b")},
        "layers.*.self_attn.kv_a_proj_with_mqa": "mla_kv_a_proj",
        "layers.*.self_attn.o_proj": "rowwise",
        **{f"layers.*.mlp.{name}_proj": "colwise" for name in ("gate", "up")},
        "layers.*.mlp.down_proj": "rowwise",
        **{f"layers.*.mlp.shared_experts.{name}_proj": "colwise" for name in ("gate", "up")},
        "layers.*.mlp.shared_experts.down_proj": "rowwise",
        f"{_EXPERTS}.gate_up_proj": "packed_colwise",
        f"{_EXPERTS}.down_proj": "rowwise",
        _EXPERTS: "moe_tp_experts",
    }
    base_model_ep_plan = {
        f"{_EXPERTS}.gate_up_proj": "grouped_gemm",
        f"{_EXPERTS}.down_proj": "grouped_gemm",
        _EXPERTS: "ep_dispatch_experts",
    }

    vocab_size: int = 102400
    hidden_size: int = 4096
    intermediate_size: int = 11008
    moe_intermediate_size: int = 1407
    num_hidden_layers: int = 30
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    first_k_dense_replace: int = 1
    n_routed_experts: int = 64
    n_shared_experts: int = 2
    num_experts_per_tok: int = 6
    routed_scaling_factor: float = 1.0
    norm_topk_prob: bool = False
    scoring_func: str = "softmax"
    topk_method: str = "greedy"
    n_group: int = 1
    topk_group: int = 1
    output_router_logits: bool = False
    router_aux_loss_coef: float | None = None
    use_mla: bool = True
    kv_lora_rank: int | None = 512
    q_lora_rank: int | None = None
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 100000
    eos_token_id: int | list[int] | None = 100001
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills in what follows from other fields, and checks the kinds."""
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if not self.use_mla:
            self.kv_lora_rank = None
        if self.router_aux_loss_coef is None:
            self.router_aux_loss_coef = AUX_LOSS_COEFFICIENTS.get(self.scoring_func)
        super().__post_init__(**kwargs)
        self._check_kinds()  # at last, because transformers reads rope_parameters from older spellings

    def _check_kinds(self) -> None:
        if (self.scoring_func, self.topk_method) not in ROUTERS:
            known = " and ".join(f"{scoring!r} with {method!r}" for scoring, method in ROUTERS)
            raise ValueError(
                f"text_config has scoring_func {self.scoring_func!r} with topk_method {self.topk_method!r}; "
                f"this model has {known}."
            )
        for name, value in {"hidden_act": "silu", "q_lora_rank": None}.items():
            if getattr(self, name) != value:
                raise ValueError(f"text_config.{name} is {getattr(self, name)!r}; this model has {value!r}.")
        if self.use_mla and self.kv_lora_rank is None:
            raise ValueError(
                "text_config has use_mla, but no kv_lora_rank; expected the width of a latent, such as 512."
            )
        rope = (self.rope_parameters or {}).get("rope_type", "default")
        if rope != "default":
            raise ValueError(f"text_config scales its rotary embedding by {rope!r}; no published DeepSeek-VL2 does.")
        self._check_experts()

    def _check_experts(self) -> None:
        if self.n_group < 1 or self.n_routed_experts % self.n_group or not 1 <= self.topk_group <= self.n_group:
            raise ValueError(
                f"text_config chooses {self.topk_group} of {self.n_group} groups of {self.n_routed_experts} experts; "
                "expected groups of equal size, and at most as many chosen as there are."
            )
        reachable = self.n_routed_experts // self.n_group * self.topk_group
        if self.num_experts_per_tok > reachable:
            raise ValueError(
                f"text_config chooses {self.num_experts_per_tok} experts per token, but {self.topk_group} of "
                f"{self.n_group} groups hold only {reachable}."
            )
        if self.n_group > 1 and self.topk_method == "greedy":
            raise ValueError(
                f"text_config has {self.n_group} groups of experts, which topk_method 'greedy' does not look at; "
                "expected n_group 1, or 'noaux_tc'."
            )

    @property
    def head_dim(self) -> int:
        """Width of what is rotated: a head, or of latent attention the rotary part of one."""
        return self.qk_rope_head_dim if self.use_mla else self.hidden_size // self.num_attention_heads

    @property
    def qk_head_dim(self) -> int | None:
        """Of latent attention the width of a query; transformers reads from it that keys and values differ in width."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim if self.use_mla else None
