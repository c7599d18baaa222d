"""Every combination of the image processors' steps against transformers' own Pillow processors of the same families."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from deepseek_vl_hf import DeepseekVL2ImageProcessor, DeepseekVLHybridImageProcessor, DeepseekVLImageProcessor
from deepseek_vl_hf.hf.versions import INSTALLED

# transformers adds up in another order, in float32.
ROUNDING = 2e-6
STEPS = ("do_resize", "do_pad", "do_rescale", "do_normalize")
COMBINATIONS = [dict(zip(STEPS, values, strict=True)) for values in itertools.product((True, False), repeat=4)]
STATISTICS = {"image_mean": list(OPENAI_CLIP_MEAN), "image_std": list(OPENAI_CLIP_STD)}
# No edge whose size the two round differently.
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)

# Before 5.21 transformers pads Hybrid's pictures in other colors than the original.
PADS_ALIKE = INSTALLED.release >= (5, 21)


def theirs(name):
    module = pytest.importorskip(f"transformers.models.{name}.image_processing_pil_{name}")
    kind = "DeepseekVLHybridImageProcessorPil" if name.endswith("hybrid") else "DeepseekVLImageProcessorPil"
    return getattr(module, kind)


def unit(pixels):
    return pixels.astype(np.float32) / 255


# Of floats in [0, 1] transformers divides by 255 once more where it rescales, and warns.
CASES = [
    pytest.param(steps, kind, id=f"{','.join(name for name in STEPS if steps[name]) or 'nothing'}-{kind}")
    for steps in COMBINATIONS
    for kind in ("uint8", "[0, 1]", "[0, 255]")
    if not (kind == "[0, 1]" and steps["do_rescale"])
]
INPUTS = {"uint8": lambda pixels: pixels, "[0, 1]": unit, "[0, 255]": lambda pixels: pixels.astype(np.float32)}


def middle(values, steps):
    """What is picture: transformers pads those in [0, 1] with colors of [0, 255]."""
    quarter = values.shape[-2] // 4
    return values[..., quarter:-quarter, :] if steps["do_pad"] else values


@pytest.mark.parametrize(("steps", "kind"), CASES)
def test_one_tower(steps, kind):
    size = {"size": {"height": 64, "width": 64}, **STATISTICS}
    picture = INPUTS[kind](PIXELS)
    found = DeepseekVLImageProcessor(**size)(picture, return_tensors="pt", **steps)["pixel_values"]
    expected = theirs("deepseek_vl")(**size)(picture, return_tensors="pt", **steps)["pixel_values"].to(found.dtype)
    assert found.shape == expected.shape
    if kind == "[0, 1]":
        found, expected = middle(found, steps), middle(expected, steps)
    assert (found - expected).abs().max() <= ROUNDING * max(1, expected.abs().max())


@pytest.mark.parametrize(("steps", "kind"), CASES)
def test_two_towers(steps, kind):
    """The large pixels are equal; the small ones are interpolated from floats here, and from 8 bits there."""
    # transformers pads only what it resizes, cannot resize what it padded of [0, 1], and keeps the small pixels' shape.
    wide = steps["do_pad"] and steps["do_resize"] and kind != "[0, 1]" and PADS_ALIKE
    sizes = {"size": {"height": 32, "width": 32}, "high_res_size": {"height": 64, "width": 64}, **STATISTICS}
    picture = INPUTS[kind](PIXELS if wide else PIXELS[:, :48])
    found = DeepseekVLHybridImageProcessor(**sizes)(picture, return_tensors="pt", **steps)
    expected = theirs("deepseek_vl_hybrid")(**sizes)(picture, return_tensors="pt", resample=2, **steps)
    level = 1 / 255 if kind == "[0, 1]" or steps["do_rescale"] else 1.0
    level = level / min(OPENAI_CLIP_STD) if steps["do_normalize"] else level
    for name, bound in (("high_res_pixel_values", 0.0), ("pixel_values", 1.01 * level if steps["do_resize"] else 0.0)):
        ours, other = found[name], expected[name].to(torch.float32)
        assert ours.shape == other.shape
        assert (ours - other).abs().max() <= bound + ROUNDING * max(1, other.abs().max()), name


@pytest.mark.parametrize("kind", [DeepseekVLImageProcessor, DeepseekVLHybridImageProcessor, DeepseekVL2ImageProcessor])
@pytest.mark.parametrize("do_normalize", [True, False])
def test_floats_without_rescaling_are_the_picture(kind, do_normalize):
    """Padding included, in a batch with a picture in [0, 255], which is left as large as it is."""
    options = {"do_normalize": do_normalize, "return_tensors": "pt"}
    processor = kind(size={"height": 384, "width": 384})
    expected = processor([PIXELS, PIXELS[:, :48]], **options)
    tensor = torch.from_numpy(unit(PIXELS)).permute(2, 0, 1)
    for first in (unit(PIXELS), tensor, tensor.to(torch.float64)):
        found = processor([first, unit(PIXELS[:, :48])], do_rescale=False, **options)
        for name in processor.model_input_names:
            assert torch.equal(found[name], expected[name])
    mixed = processor([unit(PIXELS), PIXELS], do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    one = len(mixed) // 2
    assert torch.allclose(mixed[:one] * 255, mixed[one:], atol=1e-3)
    assert mixed[one:].max() > 200


def test_floats_without_rescaling_through_the_whole_processor(processor):
    expected = processor(images=PIXELS)["pixel_values"]
    assert torch.equal(processor(images=unit(PIXELS), do_rescale=False)["pixel_values"], expected)


@pytest.mark.parametrize("name", ["deepseek_vl", "deepseek_vl_hybrid"])
def test_other_classes_read_our_settings(name):
    if name == "deepseek_vl_hybrid" and not PADS_ALIKE:
        pytest.skip("transformers pads in the colors of these settings from 5.21 on")
    ours = {"deepseek_vl": DeepseekVLImageProcessor, "deepseek_vl_hybrid": DeepseekVLHybridImageProcessor}[name]
    settings = ours(transparency="drop", **STATISTICS).to_dict()
    settings = {key: value for key, value in settings.items() if key != "image_processor_type"}
    found = theirs(name).from_dict(settings)(PIXELS, return_tensors="pt")["pixel_values"]
    assert torch.equal(
        found, theirs(name)(**STATISTICS)(PIXELS, return_tensors="pt", resample=ours.resample)["pixel_values"]
    )


def test_the_page_of_the_documentation_runs(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    snippets = re.findall(
        r"```python\n(.*?)```", (root / "docs" / "pictures.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(snippets) == 2
    names = {}
    for snippet in snippets:
        exec(snippet, names)
    assert names["inputs"]["pixel_values"].ndim == 4
    assert names["pictures"][0].mode == "RGB"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("image_mean", [0.5, 0.5], "a number, or 3 of them"),
        ("image_mean", [False, 0.5, 0.5], "a number, or 3 of them"),
        ("image_mean", ["0.5"] * 3, "a number, or 3 of them"),
        ("image_std", [0.5, 0.5, 0.0], "a positive number, or 3 of them"),
        ("image_std", float("nan"), "a positive number, or 3 of them"),
        ("rescale_factor", -1, "a positive number"),
        ("do_normalize", "false", "true or false"),
    ],
)
@pytest.mark.parametrize("kind", [DeepseekVLImageProcessor, DeepseekVLHybridImageProcessor, DeepseekVL2ImageProcessor])
def test_settings_of_a_wrong_kind(kind, name, value, expected):
    """Where a processor is made, and in a call; nothing is taken for 0, repeated, or left out."""
    message = re.escape(f"{kind.__name__} has {name} {value!r}; expected {expected}.")
    with pytest.raises(ValueError, match=message):
        kind(**{name: value})
    with pytest.raises((ValueError, StrictDataclassError), match=name):  # transformers looks at some of them first
        kind()(PIXELS, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("min_size", "14", "a whole number from 1"),
        ("min_size", True, "a whole number from 1"),
        ("background_color", [127, 127], "3 whole numbers from 0 to 255"),
        ("background_color", [True, 127, 127], "3 whole numbers from 0 to 255"),
        ("background_color", [127.5, 127, 127], "3 whole numbers from 0 to 255"),
        ("background_color", [256, 0, 0], "3 whole numbers from 0 to 255"),
    ],
)
def test_settings_of_padding_of_a_wrong_kind(name, value, expected):
    with pytest.raises(ValueError, match=re.escape(f"has {name} {value!r}; expected {expected}")):
        DeepseekVLImageProcessor(**{name: value})


def test_settings_as_arrays():
    listed = DeepseekVLImageProcessor(image_mean=[0.4, 0.5, 0.6])(PIXELS, return_tensors="pt")["pixel_values"]
    array = DeepseekVLImageProcessor(image_mean=np.array([0.4, 0.5, 0.6]))(PIXELS, return_tensors="pt")["pixel_values"]
    assert torch.equal(listed, array)
