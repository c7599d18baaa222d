"""What DeepSeek-VL-Hybrid has beyond the one-tower model: two resolutions and two towers."""

import json
import logging

import numpy as np
import pytest
import torch
from accelerate import infer_auto_device_map
from accelerate.utils import compute_module_sizes
from PIL import Image
from torch.nn import functional

from deepseek_vl_hf import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridImageProcessor,
)
from deepseek_vl_hf.models.deepseek_vl_hybrid import modeling_deepseek_vl_hybrid as modeling

# Floats in [0, 1]. Measured 8e-6 against the float64 formula, because the interpolation places its triangles in float32
# (against the original's numbers, in tests/parity, the difference is 0). The mistakes below: 3e-3 and more.
REDUCTION_TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def inputs(hybrid):
    return hybrid.inputs(0)


@pytest.fixture(scope="module")
def detailed():
    """A picture with the finest detail that a reduction can meet."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    stripes = np.where(np.arange(1024) % 3 == 0, 255, 0).astype(np.uint8)
    noise[512:] = stripes[:, None]
    return Image.fromarray(noise)


def triangle_weights(large: int, small: int) -> torch.Tensor:
    """Antialiased bilinear reduction as a matrix [small, large]: triangles as wide as the factor, in float64."""
    factor = large / small
    centers = (torch.arange(small, dtype=torch.float64) + 0.5) * factor
    places = torch.arange(large, dtype=torch.float64) + 0.5
    weights = (1 - (places[None] - centers[:, None]).abs() / factor).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def reduced(picture, **kwargs):
    processor = DeepseekVLHybridImageProcessor(**kwargs)
    return processor(picture, do_normalize=False, return_tensors="pt")["pixel_values"][0]


def test_reduction_is_antialiased_bilinear_on_floats(detailed):
    weights = triangle_weights(1024, 384)
    pixels = torch.from_numpy(np.asarray(detailed).copy()).permute(2, 0, 1).double() / 255
    expected = weights @ pixels @ weights.T
    assert (reduced(detailed) - expected).abs().max() <= REDUCTION_TOLERANCE


def test_the_reduction_test_sees_every_mistake(detailed):
    expected = reduced(detailed)
    pixels = torch.from_numpy(np.asarray(detailed).copy()).permute(2, 0, 1)[None].float() / 255
    mistakes = {
        "no antialiasing": functional.interpolate(pixels, (384, 384), mode="bilinear", align_corners=False)[0],
        "8-bit": torch.from_numpy(np.asarray(detailed.resize((384, 384), Image.BILINEAR)).copy()).permute(2, 0, 1)
        / 255,
        "bicubic": reduced(detailed, resample=Image.BICUBIC),
    }
    for name, found in mistakes.items():
        assert (found - expected).abs().max() > 100 * REDUCTION_TOLERANCE, name


def test_both_resolutions_are_normalized_on_their_own(images):
    processor = DeepseekVLHybridImageProcessor()
    picture = Image.open(images / "wide.png")
    plain = processor(picture, do_normalize=False, return_tensors="pt")
    normalized = processor(picture, return_tensors="pt")
    assert normalized["high_res_pixel_values"].shape == (1, 3, 1024, 1024)
    for name, mean, std in (
        ("pixel_values", [0.5] * 3, [0.5] * 3),
        ("high_res_pixel_values", processor.high_res_image_mean, processor.high_res_image_std),
    ):
        mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        assert torch.allclose(normalized[name], (plain[name] - mean) / std, atol=1e-6)


def test_padding_has_the_truncated_mean_of_the_high_resolution(images):
    pixels = DeepseekVLHybridImageProcessor()(Image.open(images / "wide.png"), do_rescale=False, do_normalize=False)
    assert pixels["high_res_pixel_values"][0][:, 0, 0].tolist() == [122, 116, 104]


def test_the_paddings_color_can_be_chosen(images):
    processor = DeepseekVLHybridImageProcessor(high_res_background_color=[1, 2, 3])
    pixels = processor(Image.open(images / "wide.png"), do_rescale=False, do_normalize=False)
    assert pixels["high_res_pixel_values"][0][:, 0, 0].tolist() == [1, 2, 3]


def test_setting_the_attention_is_quiet(hybrid, caplog):
    """SAM keeps its own path, but transformers finds it and has nothing to warn of."""
    model = hybrid.load()
    with caplog.at_level(logging.WARNING):
        model.set_attn_implementation("eager")
    assert caplog.text == ""
    assert model.model.high_res_vision_model.config._attn_implementation == "eager"


def test_sam_and_aligner_stay_on_one_device(hybrid):
    sizes = compute_module_sizes(hybrid.model)
    encoder = sizes["model.high_res_vision_model.vision_encoder"]
    for limit in range(encoder // 2, 3 * encoder, encoder // 7):
        device_map = infer_auto_device_map(
            hybrid.model, {0: limit, "cpu": 10 * sizes[""]}, no_split_module_classes=hybrid.model._no_split_modules
        )
        inside = [name for name in device_map if name.startswith("model.high_res_vision_model.vision_encoder.")]
        assert not inside, (limit, inside)


def test_steps_can_be_left_out(images):
    processor, picture = DeepseekVLHybridImageProcessor(), Image.open(images / "tall.png")
    as_it_is = processor(picture, do_resize=False, return_tensors="pt")
    assert as_it_is["pixel_values"].shape == as_it_is["high_res_pixel_values"].shape == (1, 3, 401, 401)
    raw = processor(picture, do_rescale=False, do_normalize=False, return_tensors="pt")
    assert raw["high_res_pixel_values"].max() > 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"high_res_size": {"height": 1024, "width": 512}}, "expected an equal height and width"),
        ({"size": {"shortest_edge": 384}}, "expected an equal height and width"),
        ({"resample": Image.LANCZOS}, r"resample is .*expected PILImageResampling.BILINEAR"),
    ],
)
def test_sizes_and_filters_that_do_not_suit(images, kwargs, message):
    with pytest.raises(ValueError, match=message):
        DeepseekVLHybridImageProcessor()(Image.open(images / "tall.png"), **kwargs)


def test_settings_of_other_peoples_files():
    """transformers' own processor writes a background color for the low resolution too; nothing is padded there."""
    written = {"background_color": [127, 127, 127], "high_res_background_color": [122, 116, 104], "resample": 2}
    processor = DeepseekVLHybridImageProcessor(**written, high_res_size=512, high_res_image_mean=[0.5, 0.5, 0.5])
    assert processor.high_res_background_color == [122, 116, 104]
    assert dict(processor.high_res_size) == {"height": 512, "width": 512}
    assert processor.high_res_image_mean == (0.5, 0.5, 0.5)
    assert json.loads(processor.to_json_string())["high_res_size"] == {"height": 512, "width": 512}


@torch.no_grad()
def test_image_features_hold_both_towers_states(hybrid, inputs):
    features = hybrid.model.get_image_features(
        inputs["pixel_values"], inputs["high_res_pixel_values"], return_dict=True, output_hidden_states=True
    )
    text, vision, high = (
        getattr(hybrid.model.config, f"{part}_config") for part in ("text", "vision", "high_res_vision")
    )
    assert features.pooler_output.shape == (1, 576, text.hidden_size)
    assert features.last_hidden_state.shape == (1, 576, vision.hidden_size)
    assert features.high_res_vision_last_hidden_state.shape == (1, 576, 4 * high.output_channels)
    assert len(features.hidden_states) == vision.num_hidden_layers + 1
    assert [state.shape for state in features.high_res_vision_hidden_states] == [(1, 32, 32, high.hidden_size)] * (
        high.num_hidden_layers + 1
    )


@torch.no_grad()
def test_attention_maps_are_explained(hybrid, inputs, caplog):
    model = hybrid.load()
    model.set_attn_implementation("eager")
    modeling.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        features = model.get_image_features(
            inputs["pixel_values"], inputs["high_res_pixel_values"], output_attentions=True
        )
    assert len(features.attentions) == model.config.vision_config.num_hidden_layers
    assert features.high_res_vision_attentions is None
    assert "SAM computes attention in blocks and never holds its maps" in caplog.text


def test_interpolation_is_done_in_float32(monkeypatch, hybrid):
    seen = []
    interpolate = functional.interpolate

    def spy(features, *args, **kwargs):
        seen.append(features.dtype)
        return interpolate(features, *args, **kwargs)

    monkeypatch.setattr(functional, "interpolate", spy)
    projection = modeling.DeepseekVLHybridProjection(hybrid.model.config.high_res_vision_config, 24).bfloat16()
    assert projection(torch.randn(1, 8, 32, 32).bfloat16()).dtype == torch.bfloat16
    assert seen == [torch.float32]


@pytest.mark.parametrize("grid", [24, 14, 27])
def test_both_towers_give_the_same_grid(hybrid, grid):
    projection = modeling.DeepseekVLHybridProjection(hybrid.model.config.high_res_vision_config, grid)
    assert projection(torch.randn(1, 8, 32, 32)).shape[-2:] == (grid, grid)


def without(inputs, *names):
    return {name: value for name, value in inputs.items() if name not in names}


@pytest.mark.parametrize("given", ["pixel_values", "high_res_pixel_values"])
def test_one_resolution_without_the_other(hybrid, inputs, given):
    missing = ({"pixel_values", "high_res_pixel_values"} - {given}).pop()
    for call in (hybrid.model, hybrid.model.model):
        with pytest.raises(ValueError, match=f"^{missing} is missing. The model reads images from pixel_values and h"):
            call(**without(inputs, missing))


def test_generate_with_one_resolution(hybrid, inputs):
    with pytest.raises(ValueError, match=r"^high_res_pixel_values is missing"):
        hybrid.model.generate(**without(inputs, "high_res_pixel_values"), max_new_tokens=2)
    with pytest.raises(ValueError, match=r"^pixel_values is missing"):
        hybrid.model.generate(**without(inputs, "pixel_values"), max_new_tokens=2)
    text = torch.full((1, 5), 5)
    with pytest.raises(ValueError, match=r"^pixel_values is missing"):
        hybrid.model.generate(input_ids=text, high_res_pixel_values=inputs["high_res_pixel_values"], max_new_tokens=2)


def test_resolutions_that_disagree_in_number(hybrid, inputs):
    with pytest.raises(ValueError, match="pixel_values holds 2 images, high_res_pixel_values 1"):
        hybrid.model.get_image_features(inputs["pixel_values"].repeat(2, 1, 1, 1), inputs["high_res_pixel_values"])


@pytest.mark.parametrize(
    ("name", "shape", "side"),
    [("pixel_values", (1, 3, 256, 256), 384), ("high_res_pixel_values", (1, 3, 384, 384), 512)],
)
def test_pixels_of_a_wrong_size(hybrid, inputs, name, shape, side):
    pixels = {key: inputs[key] for key in ("pixel_values", "high_res_pixel_values")}
    with pytest.raises(ValueError, match=rf"{name} has the shape .*expected \[images, 3, {side}, {side}\]"):
        hybrid.model.get_image_features(**{**pixels, name: torch.zeros(shape)})


def test_grids_that_do_not_match(hybrid):
    with pytest.raises(ValueError, match=r"grids do not match.*\[1, 576\], of high resolution: \[1, 100\]"):
        hybrid.model.model.aligner(torch.zeros(1, 576, 32), torch.zeros(1, 100, 32))


def test_published_sizes_where_nothing_is_said():
    config = DeepseekVLHybridConfig()
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (4096, 30)
    assert (config.vision_config.hidden_size, config.vision_config.hidden_act) == (1024, "gelu")
    high = config.high_res_vision_config
    assert (high.hidden_size, high.num_hidden_layers, high.image_size, high.output_channels) == (768, 12, 1024, 256)
    assert list(high.global_attn_indexes) == [2, 5, 8, 11]
    assert (config.image_token_id, config.tie_word_embeddings) == (100015, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"high_res_vision_config": {"image_size": 1000}}, "image_size 1000 is not a multiple of the patch size 16"),
        ({"high_res_vision_config": {"model_type": "vitdet"}}, "high_res_vision_config has the model_type 'vitdet'"),
        (
            {"vision_config": {"model_type": "clip_vision_model"}},
            "vision_config has the model_type 'clip_vision_model'",
        ),
    ],
)
def test_configs_of_other_towers(fields, message):
    with pytest.raises(ValueError, match=message):
        DeepseekVLHybridConfig(**fields)


@pytest.mark.parametrize(
    ("wrong", "right", "name"),
    [
        (DeepseekVLForConditionalGeneration, "DeepseekVLHybrid", "vl_hybrid"),
        (DeepseekVLHybridForConditionalGeneration, "DeepseekVL", "vl"),
    ],
)
def test_a_checkpoint_of_the_other_family(families, wrong, right, name):
    with pytest.raises(ValueError, match=f"{right}ForConditionalGeneration"):
        wrong.from_pretrained(families[name].converted)
    config = wrong.config_class
    with pytest.raises(ValueError, match=f"{right}Config"):
        config.from_pretrained(families[name].converted)


def test_new_models_start_with_the_second_path_closed(hybrid):
    model = DeepseekVLHybridForConditionalGeneration(hybrid.model.config)
    assert model.model.high_res_vision_alpha.item() == 0
    encoder = model.model.high_res_vision_model.vision_encoder
    assert all(layer.attn.rel_pos_h.abs().max() == 0 for layer in encoder.layers)
    assert encoder.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert DeepseekVLConfig.model_type != model.config.model_type
