"""Routers and experts of DeepSeek-VL2 by themselves, and the same weights in transformers' own text models."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
)
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from deepseek_vl_hf.models.deepseek_moe.configuration_deepseek_moe import DeepseekMoeConfig
from deepseek_vl_hf.models.deepseek_moe.experts import (
    FEW_TOKENS,
    DeepseekMoeExperts,
    DeepseekMoeRouter,
    balance_loss,
    experts_by_device,
    members_of_sequences,
)
from family import VL2_FAMILIES, relative_error

# float32, another order of the same sums: measured 2e-7 relative.
TOLERANCE = 1e-5
SIZES = {"hidden_size": 16, "moe_intermediate_size": 12, "n_routed_experts": 8, "num_experts_per_tok": 3}
SIGMOID = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}


@pytest.fixture(scope="module", params=VL2_FAMILIES)
def vl2(request, families):
    return families[request.param]


def router(**settings):
    module = DeepseekMoeRouter(DeepseekMoeConfig(**SIZES, **settings))
    torch.nn.init.normal_(module.weight)
    return module


def test_softmax_weights_are_those_of_all_experts():
    logits, weights, experts = router()(torch.randn(20, 16))
    for row in range(20):
        probabilities = logits[row].exp() / logits[row].exp().sum()
        best = sorted(range(8), key=lambda expert: -probabilities[expert])[:3]
        assert experts[row].tolist() == best
        assert torch.allclose(weights[row], probabilities[best])


def test_the_correction_bias_decides_the_choice_but_not_the_weights():
    module = router(**SIGMOID, norm_topk_prob=True, routed_scaling_factor=2.0)
    module.e_score_correction_bias[5] = 10.0
    logits, weights, experts = module(torch.randn(20, 16))
    assert (experts[:, 0] == 5).all()
    scores = logits.sigmoid().gather(1, experts)
    assert torch.allclose(weights, 2 * scores / scores.sum(1, keepdim=True))


def test_only_experts_of_the_best_groups_are_chosen():
    module = router(**SIGMOID, n_group=4, topk_group=2)
    module.e_score_correction_bias -= 2.0  # all preferences below zero, so that zeros of other groups would win
    logits, _, experts = module(torch.randn(50, 16))
    groups = (logits.sigmoid() + module.e_score_correction_bias).view(50, 4, 2).sum(-1)
    for row in range(50):
        allowed = set(groups[row].topk(2).indices.tolist())
        assert {expert // 2 for expert in experts[row].tolist()} <= allowed
    assert len(experts.unique()) == 8


def test_the_router_stays_in_float32_under_autocast():
    module, states = router(), torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits, weights, _ = module(states)
    assert logits.dtype == weights.dtype == torch.float32
    assert torch.equal(logits, module(states)[0])


def experts_and_choices(tokens, **sizes):
    torch.manual_seed(0)
    config = DeepseekMoeConfig(**{**SIZES, **sizes})
    config._experts_implementation = "eager"
    module = DeepseekMoeExperts(config)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module, torch.randn(tokens, 16), torch.rand(tokens, 8).topk(3).indices, torch.rand(tokens, 3)


@pytest.mark.parametrize("tokens", [1, 5, FEW_TOKENS + 1])
@pytest.mark.parametrize("name", ["eager", "by_device", "grouped_mm", "batched_mm"])
def test_implementations_equal_the_plain_formula(relative, name, tokens):
    module, states, chosen, weights = experts_and_choices(tokens)
    expected = torch.zeros_like(states)
    for token in range(tokens):
        for expert, weight in zip(chosen[token].tolist(), weights[token], strict=True):
            gate, up = (module.gate_up_proj[expert] @ states[token]).chunk(2)
            expected[token] += weight * (module.down_proj[expert] @ (torch.nn.functional.silu(gate) * up))
    module.config._experts_implementation = name
    assert relative(module(states, chosen, weights), expected.detach()) <= TOLERANCE


@pytest.mark.parametrize("tokens", [1, 5, FEW_TOKENS + 1])
def test_gradients_of_both_ways_are_equal(relative, tokens):
    found = []
    for function in (DeepseekMoeExperts.forward, experts_by_device):
        module, states, chosen, weights = experts_and_choices(tokens)
        weights.requires_grad_()
        function(module, states, chosen, weights).square().sum().backward()
        found.append([weights.grad, *(parameter.grad for parameter in module.parameters())])
    for one, other in zip(*found, strict=True):
        assert relative(other, one) <= TOLERANCE


def test_grouped_products_follow_autocast():
    """Which does not know them: of weights that learn, float32 ones, they would be float32, and slow on a GPU."""
    module, states, chosen, weights = experts_and_choices(5, moe_intermediate_size=16)
    with torch.autocast("cpu", torch.bfloat16):
        found = experts_by_device(module, states, chosen, weights)
        module.config._experts_implementation = "grouped_mm"
        assert torch.equal(found, copy.deepcopy(module).bfloat16()(states, chosen, weights))
    found.sum().backward()
    assert {parameter.grad.dtype for parameter in module.parameters()} == {torch.float32}


def test_gradients_of_experts_are_put_together_once():
    """Not filled up to the size of all experts for each of them."""
    module, states, chosen, weights = experts_and_choices(FEW_TOKENS + 1)
    result = module.one_after_the_other(states, chosen, weights)
    with torch.profiler.profile() as profile:
        result.sum().backward()
    called = [event.name for event in profile.events()]
    assert "aten::select_backward" not in called
    assert called.count("UnbindBackward0") == 2


@pytest.mark.parametrize("tokens", [1, 5, FEW_TOKENS + 1])
@pytest.mark.parametrize("name", ["eager", "by_device"])
def test_experts_of_other_processes_are_left_out(relative, name, tokens):
    """Expert parallelism numbers them from `num_experts` on, and adds the processes' results."""
    module, states, chosen, weights = experts_and_choices(tokens)
    whole = module(states, chosen, weights)
    module.config._experts_implementation = name
    module._is_expert_parallel, module.num_experts = True, 4
    gate_up, down = module.gate_up_proj, module.down_proj
    total = torch.zeros_like(states)
    for first in (0, 4):
        module.gate_up_proj = torch.nn.Parameter(gate_up[first : first + 4].clone())
        module.down_proj = torch.nn.Parameter(down[first : first + 4].clone())
        here = (chosen >= first) & (chosen < first + 4)
        local = torch.where(here, chosen - first, 4)
        total += module(states, local, weights * here).detach()
    assert relative(total, whole.detach()) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("name", ["eager", "grouped_mm", "batched_mm"])
def test_implementations_in_a_model(vl2, relative, name):
    inputs = vl2.inputs(4)
    other = AutoModelForImageTextToText.from_pretrained(
        vl2.converted, dtype=torch.float32, experts_implementation={"text_config": name}
    )
    assert other.config.text_config._experts_implementation == name
    assert vl2.model.config.text_config._experts_implementation == "by_device"
    assert relative(other(**inputs).logits, vl2.model(**inputs).logits) <= TOLERANCE


def test_compiled_graphs_take_grouped_products(monkeypatch):
    module, states, chosen, weights = experts_and_choices(FEW_TOKENS + 1)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS, "grouped_mm", lambda *arguments: "grouped")
    assert experts_by_device(module, states, chosen, weights) == "grouped"


def test_balance_loss_is_one_where_all_experts_are_chosen_alike():
    module = router()
    even = torch.stack([torch.roll(torch.tensor([9.0, 8, 7, 0, 0, 0, 0, 0]), shift) for shift in range(8)])
    together = torch.ones(1, 8)
    assert balance_loss(module, even, together).item() == pytest.approx(1.0)
    uneven = even[:1].expand(8, -1)
    probabilities = even[0].softmax(0)
    assert balance_loss(module, uneven, together).item() == pytest.approx(8 / 3 * probabilities[:3].sum().item())


def test_balance_loss_leaves_padding_out():
    module, logits = router(**SIGMOID), torch.randn(10, 8)
    mask = torch.ones(2, 5)
    mask[0, :2] = 0
    members = members_of_sequences(torch.zeros(2, 5), mask, None)
    assert members.tolist() == [[0, 0, 1, 1, 1, 0, 0, 0, 0, 0], [0] * 5 + [1] * 5]
    alone = [balance_loss(module, part, torch.ones(1, len(part))) for part in (logits[2:5], logits[5:])]
    assert torch.allclose(balance_loss(module, logits, members), torch.stack(alone).mean())


def test_packed_sequences_are_told_apart_by_their_positions():
    members = members_of_sequences(torch.zeros(1, 6), None, torch.tensor([[0, 1, 2, 0, 0, 1]]))
    assert members.tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    rows = members_of_sequences(torch.zeros(2, 2), None, torch.arange(2)[None])
    assert rows.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


@torch.no_grad()
def test_router_logits_and_the_auxiliary_loss_on_request(vl2):
    model, inputs = vl2.model, vl2.inputs(4)
    labels = inputs["input_ids"]
    plain = model(**inputs, labels=labels)
    assert plain.router_logits is None
    assert plain.aux_loss is None
    output = model(**inputs, labels=labels, output_router_logits=True)
    config = model.config.text_config
    assert len(output.router_logits) == config.num_hidden_layers - config.first_k_dense_replace
    assert output.router_logits[0].shape == (labels.numel(), config.n_routed_experts)
    gates = [layer.mlp.gate for layer in model.model.language_model.layers[config.first_k_dense_replace :]]
    pairs = zip(gates, output.router_logits, strict=True)
    expected = sum(balance_loss(gate, logits, torch.ones(1, labels.numel())) for gate, logits in pairs)
    assert torch.allclose(output.aux_loss, config.router_aux_loss_coef * expected)
    assert torch.allclose(output.loss, plain.loss + output.aux_loss)


@torch.no_grad()
def test_the_auxiliary_loss_is_of_sequences_with_and_without_a_mask(vl2):
    ids = vl2.inputs(4)["input_ids"]
    batch = torch.cat([ids, ids.flip(1)])
    found = [
        vl2.model(input_ids=batch, attention_mask=mask, labels=batch, output_router_logits=True).aux_loss
        for mask in (None, torch.ones_like(batch))
    ]
    alone = [vl2.model(input_ids=row[None], labels=row[None], output_router_logits=True).aux_loss for row in batch]
    assert torch.allclose(*found)
    assert torch.allclose(found[0], torch.stack(alone).mean())


@torch.no_grad()
@pytest.mark.parametrize("num_items_in_batch", [None, 5])
@pytest.mark.parametrize("as_mask", [False, True])
def test_the_auxiliary_loss_is_of_whole_sequences_where_few_logits_are_kept(vl2, num_items_in_batch, as_mask):
    """Labels are then those of the kept positions, as ms-swift cuts them."""
    inputs = vl2.inputs(4)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -3:] = inputs["input_ids"][:, -3:]
    settings = {"output_router_logits": True, "num_items_in_batch": num_items_in_batch}
    whole = vl2.model(**inputs, **settings, labels=labels)
    keep = torch.arange(labels.shape[1]) >= labels.shape[1] - 4 if as_mask else 4
    kept = vl2.model(**inputs, **settings, labels=labels[:, -4:], logits_to_keep=keep)
    assert torch.allclose(kept.logits, whole.logits[:, -4:], atol=1e-5)
    assert torch.allclose(kept.aux_loss, whole.aux_loss)
    assert torch.allclose(kept.loss, whole.loss)


@torch.no_grad()
def test_router_logits_disturb_no_generation(vl2):
    inputs, settings = vl2.inputs(4), {"max_new_tokens": 4, "do_sample": False, "cache_implementation": "static"}
    expected = vl2.model.generate(**inputs, **settings)
    assert torch.equal(vl2.model.generate(**inputs, **settings, output_router_logits=True), expected)


def test_every_router_learns_from_the_auxiliary_loss(vl2):
    """Also with the sigmoid router, with which the original refuses to train."""
    model = vl2.load().train()
    inputs = vl2.inputs(4)
    settings = {"labels": inputs["input_ids"], "output_router_logits": True, "use_cache": False}
    checkpoint = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)  # by version
    checkpoint({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(ValueError, match=r"expected gradient_checkpointing_kwargs=\{\"use_reentrant\": False\}"):
        model(**inputs, **settings)
    checkpoint({"use_reentrant": False})
    model(**inputs, **settings).aux_loss.backward()
    gates = [parameter for name, parameter in model.named_parameters() if name.endswith("mlp.gate.weight")]
    assert gates
    assert all(gate.grad.abs().max() > 0 for gate in gates)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "config_class", "model_class"),
    [
        ("vl2_mla", DeepseekV2Config, DeepseekV2ForCausalLM),
        ("vl2_sigmoid", DeepseekV3Config, DeepseekV3ForCausalLM),
    ],
)
def test_the_same_weights_in_transformers_own_text_models(families, relative, name, config_class, model_class):
    ours = families[name].model
    text = ours.config.text_config
    copied = ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers")
    copied += ("num_attention_heads", "num_key_value_heads", "first_k_dense_replace", "n_routed_experts")
    copied += ("n_shared_experts", "num_experts_per_tok", "routed_scaling_factor", "norm_topk_prob", "n_group")
    copied += ("topk_group", "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    copied += ("rms_norm_eps", "max_position_embeddings", "bos_token_id", "eos_token_id")
    config = config_class(**{key: getattr(text, key) for key in copied}, tie_word_embeddings=False)
    theirs = model_class(config).eval()
    weights = {
        key.replace("model.language_model.", "model."): value
        for key, value in ours.state_dict().items()
        if key.startswith(("model.language_model.", "lm_head."))
    }
    assert not theirs.load_state_dict(weights, strict=True).missing_keys
    ids = families[name].inputs(4)["input_ids"]
    assert relative(ours(input_ids=ids).logits, theirs(input_ids=ids).logits) <= TOLERANCE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topk_method": "group_limited_greedy"}, "'softmax' with topk_method 'group_limited_greedy'; this model has"),
        ({"scoring_func": "sigmoid"}, "scoring_func 'sigmoid' with topk_method 'greedy'"),
        ({**SIGMOID, "n_group": 3}, "1 of 3 groups of 64 experts; expected groups of equal size"),
        ({**SIGMOID, "n_group": 4, "topk_group": 5}, "chooses 5 of 4 groups"),
        ({**SIGMOID, "n_group": 16}, "chooses 6 experts per token, but 1 of 16 groups hold only 4"),
        ({"n_group": 4, "topk_group": 4}, "4 groups of experts, which topk_method 'greedy' does not look at"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
            "scales its rotary embedding by 'yarn'",
        ),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; this model has 'silu'"),
        ({"num_experts_per_tok": 65}, "chooses 65 experts per token"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "scales its rotary embedding by 'linear'"),
        ({"q_lora_rank": 1536}, "q_lora_rank is 1536; this model has None"),
    ],
)
def test_kinds_that_no_published_model_has(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepseekMoeConfig(**settings)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 5, FEW_TOKENS + 1])
@pytest.mark.parametrize("compiled", [False, True])
def test_widths_without_grouped_products(tokens, compiled):
    """Rows of 12 numbers in 16 bits do not begin at multiples of 16 bytes; the config's default, 1407, is as odd."""
    config = DeepseekMoeConfig(**SIZES)
    config._experts_implementation = "eager"
    module = DeepseekMoeExperts(config).to(torch.bfloat16)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    states = torch.randn(tokens, 16, dtype=torch.bfloat16)
    chosen, weights = torch.rand(tokens, 8).topk(3).indices, torch.rand(tokens, 3)
    run = torch.compile(experts_by_device, backend="eager", fullgraph=True) if compiled else experts_by_device
    expected = module.float().one_after_the_other(states.float(), chosen, weights)
    found = run(module.to(torch.bfloat16), states, chosen, weights)
    # bfloat16: measured 7e-3 at most; other experts than the chosen ones give 1.
    assert relative_error(found.float(), expected) < 2e-2


def test_models_without_latent_attention_have_no_width_of_latents():
    """vLLM takes a model for one with latent attention by this field."""
    assert DeepseekMoeConfig(use_mla=False).kv_lora_rank is None
    assert DeepseekMoeConfig(use_mla=False, kv_lora_rank=512).kv_lora_rank is None  # as files of earlier versions say
    assert DeepseekMoeConfig(use_mla=True).kv_lora_rank == 512
    with pytest.raises(ValueError, match="use_mla, but no kv_lora_rank"):
        DeepseekMoeConfig(use_mla=True, kv_lora_rank=None)
