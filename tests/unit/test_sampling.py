"""Numbers that steer generation and mean nothing, and logits that are none."""

import math

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor

from deepseek_vl_hf.models.logits import FirstLogits
from deepseek_vl_hf.models.sampling import check_sampling

DRAWN = {
    "temperature": (0, -1.0, math.inf, math.nan, 1e-300, "1", True),
    "top_p": (2, 0, -0.5, math.nan, "x"),
    "top_k": (-1, 2.5, math.inf),
    "min_p": (-0.1, 1.5, math.nan),
    "top_h": (0, 2),
    "typical_p": (0, 2, math.nan),
    "epsilon_cutoff": (-1, 2),
    "eta_cutoff": (-1, 2),
}
ALWAYS = {
    "repetition_penalty": (0, -1.0, math.inf, math.nan),
    "length_penalty": (math.nan, math.inf),
    "max_new_tokens": (0, -3, "x", 1.5),
    "min_new_tokens": (-1,),
    "max_length": (0,),
    "min_length": (-1,),
    "num_beams": (0, 1.5),
    "num_return_sequences": (0,),
    "no_repeat_ngram_size": (-1,),
}
GOOD = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0, "repetition_penalty": 1.1, "length_penalty": -0.5}
IDS = torch.tensor([[0, 5, 6, 7]])


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in DRAWN.items() for value in values])
def test_what_steers_drawing(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is .*; expected a (whole|finite) number"):
        check_sampling({"do_sample": True, name: value}.get)
    check_sampling({"do_sample": False, name: value}.get)  # it is not looked at then


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ALWAYS.items() for value in values])
def test_what_steers_every_way(name, value):
    for drawing in (True, False):
        with pytest.raises(ValueError, match=rf"^{name} is .*; expected a (whole|finite) number"):
            check_sampling({"do_sample": drawing, name: value}.get)


def test_generate_asks(vl):
    check_sampling({"do_sample": True, **GOOD}.get)
    with pytest.raises(ValueError, match=r"top_p is 2; expected a finite number above 0 to 1; 1 keeps all tokens\."):
        vl.model.generate(IDS, do_sample=True, top_p=2)
    with pytest.raises(ValueError, match=r"repetition_penalty is 0; expected a finite number from 0\.01 to 100"):
        vl.model.generate(IDS, generation_config=GenerationConfig(repetition_penalty=0))
    assert vl.model.generate(IDS, do_sample=True, max_new_tokens=2, **GOOD).shape == (1, 6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "way", [{"do_sample": False}, {"do_sample": True}, {"num_beams": 2, "do_sample": False}], ids=str
)
def test_weights_that_are_no_numbers(vl, value, way):
    model = vl.load()
    with torch.no_grad():
        model.lm_head.weight[3] = value
    with pytest.raises(
        ValueError, match=r"logits .* hold NaN or infinity\. 1 of its weights .* lm_head.weight has 64\. "
    ):
        model.generate(IDS, max_new_tokens=2, **way)


def test_float16_that_runs_over(vl):
    model = vl.load(torch.float16)
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.down_proj.weight.fill_(6e4)
    with pytest.raises(ValueError, match=r"float16, whose largest number is 65504, ran over.* dtype=torch.bfloat16"):
        model.generate(IDS, max_new_tokens=2, do_sample=False)


def test_what_was_passed_is_no_number(vl):
    embeds = vl.model.get_input_embeddings()(IDS).detach().clone()
    embeds[0, 1, 0] = math.nan
    with pytest.raises(ValueError, match=r"weights are finite. Look for NaN in what was passed .* torch.float32"):
        vl.model.generate(inputs_embeds=embeds, max_new_tokens=2, do_sample=False)


class Counter(LogitsProcessor):
    """Counts how often it is called, as a caller's own processor."""

    calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        return scores


def test_callers_processors_stay(vl):
    counter = Counter()
    answer = vl.model.generate(IDS, max_new_tokens=3, do_sample=False, logits_processor=[counter])
    assert counter.calls == 3
    assert torch.equal(answer, vl.model.generate(IDS, max_new_tokens=3, do_sample=False))


def test_infinity_that_was_asked_for(vl):
    answer = vl.model.generate(IDS, max_new_tokens=1, do_sample=False, sequence_bias=[[[9], math.inf]])
    assert answer[0, -1] == 9


def test_only_the_first_logits_are_looked_at(vl):
    """Of the decoding steps none costs anything; with an assistant all are looked at."""
    bad = torch.tensor([[0.0, math.nan]])
    once = FirstLogits(vl.model, draws=False, every_step=False, infinity_is_asked_for=False)
    assert once(IDS, bad[:, :1]) is not None
    assert once(IDS, bad) is bad
    each = FirstLogits(vl.model, draws=False, every_step=True, infinity_is_asked_for=False)
    each(IDS, bad[:, :1])
    with pytest.raises(ValueError, match="NaN or infinity"):
        each(IDS, bad)


@pytest.mark.gpu
def test_on_a_gpu_the_answer_comes_a_step_later(vl):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = vl.load().to("cuda")
    with torch.no_grad():
        model.lm_head.weight[3, 5] = math.nan
    for tokens in (1, 4):
        with pytest.raises(ValueError, match="NaN or infinity"):
            model.generate(IDS.to("cuda"), max_new_tokens=tokens, do_sample=False)
