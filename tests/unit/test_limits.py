"""docs/limits.md: what transformers itself cannot do is still so."""

import importlib.util

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForImageTextToText, ImageTextToTextPipeline, TorchAoConfig

from deepseek_vl_hf import int4_config

NEWEST = Version(transformers.__version__).release >= (5, 23)


@pytest.fixture(scope="module")
def inputs(vl):
    return vl.inputs(0)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"dola_layers": "low"},
        {"num_beams": 2, "force_words_ids": [[5]]},
    ],
    ids=["contrastive", "group beams", "dola", "constrained beams"],
)
def test_ways_to_generate_that_moved_to_the_hub(vl, inputs, kwargs):
    with pytest.raises(ValueError, match="requires `trust_remote_code=True`"):
        vl.model.generate(**inputs, max_new_tokens=2, do_sample=False, **kwargs)


@pytest.mark.parametrize("cache", ["offloaded", "offloaded_static"])
def test_offloaded_caches_need_a_gpu(vl, inputs, cache):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA"):
        vl.model.generate(**inputs, max_new_tokens=2, cache_implementation=cache)


def test_quantized_caches_need_another_package(vl, inputs):
    if importlib.util.find_spec("optimum") is not None:
        pytest.skip("optimum-quanto is installed")
    with pytest.raises(ImportError, match="optimum-quanto"):
        vl.model.generate(**inputs, max_new_tokens=2, cache_implementation="quantized")


def test_cropping_to_a_length(vl, inputs):
    with torch.no_grad():
        cache = vl.model(**inputs, use_cache=True).cache
    if not NEWEST:
        pytest.skip("from transformers 5.23 on")
    with pytest.raises(ValueError, match="positive value"):
        cache.crop(600)


def test_a_static_cache_alone_compiles_nothing_on_a_cpu(vl, inputs, monkeypatch):
    compiled = []
    monkeypatch.setattr(type(vl.model), "get_compiled_call", lambda *args: compiled.append(1))
    vl.model.generate(**inputs, max_new_tokens=3, cache_implementation="static")
    assert compiled == []


def test_flex_attention_has_no_gradients_on_a_cpu(vl, inputs):
    model = vl.load()
    model.set_attn_implementation("flex_attention")
    with pytest.raises(NotImplementedError, match="does not support backward on CPU"):
        model(**inputs)


def test_pipelines_made_by_their_class_do_not_mix_chats_with_and_without_pictures(vl, images):
    pipe = ImageTextToTextPipeline(model=vl.model, processor=vl.processor)
    picture = {"type": "image", "path": str(images / "tall.png")}
    chats = [[{"role": "user", "content": [*parts, {"type": "text", "text": "Hi"}]}] for parts in ([picture], [])]
    with pytest.raises(ValueError, match="different keys"):
        pipe(text=chats, batch_size=2, max_new_tokens=2)


def test_candidates_are_for_one_prompt(vl):
    with pytest.raises(ValueError, match="only supported for batch_size = 1"):
        vl.model.generate(**vl.batch([0, 1]), max_new_tokens=3, do_sample=False, prompt_lookup_num_tokens=2)


def test_chunked_prefill_from_embeddings(vl, inputs):
    if not NEWEST:
        pytest.skip("before 5.23 images are refused in chunks altogether")
    embeds = vl.model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(RuntimeError, match="size of tensor"):
        vl.model.generate(inputs_embeds=embeds, **vl.pixels(0), max_new_tokens=2, prefill_chunk_size=100)


def test_labels_and_kept_logits(vl, inputs):
    with pytest.raises(ValueError, match="batch_size"):
        vl.model(**inputs, labels=inputs["input_ids"], logits_to_keep=5)


def test_torchaos_config_on_fused_projections(vl):
    """Original files hold a tower's q, k and v as one tensor; of the three that it becomes the first is kept."""
    recipe = int4_config(group_size=32, device="cpu").quant_type
    _, info = AutoModelForImageTextToText.from_pretrained(
        vl.original,
        dtype=torch.bfloat16,
        quantization_config=TorchAoConfig(recipe, modules_to_not_convert=["lm_head"]),
        output_loading_info=True,
    )
    assert {name.rpartition("self_attn.")[2] for name in info["missing_keys"]} == {"k_proj.weight", "v_proj.weight"}
