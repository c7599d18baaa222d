"""Many images: preprocessed on several threads, encoded in chunks, copies encoded once."""

import numpy as np
import pytest
import torch
from PIL import Image

from deepseek_vl_hf import DeepseekVL2ImageProcessor, DeepseekVLHybridImageProcessor, DeepseekVLImageProcessor
from deepseek_vl_hf.models.deepseek_vl2 import modeling_deepseek_vl2
from deepseek_vl_hf.models.encoding import encode_distinct, in_chunks
from deepseek_vl_hf.pictures.pixels import resize

# Another number of images per product may add in another order: measured 1e-6 relative.
TOLERANCE = 1e-5
FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def threads():
    """Sets torch's number of threads, which decides how many pictures are prepared at once."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Preprocessing


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(
    "size", [(5014, 2004), (3000, 3000), (1999, 3001), (1000, 4000), (777, 2310), (640, 480), (1024, 500), (1023, 1)]
)
def test_resizing_on_threads_gives_pillows_pixels(size, resample):
    image = noise(*size)
    fitted = tuple(max(edge * 1024 // max(size), 14) for edge in size)
    expected = image.resize(fitted, resample).tobytes()
    for count in (1, 2, 3, 16):
        assert resize(image, fitted, resample, count).tobytes() == expected


@pytest.mark.parametrize(
    "processor", [DeepseekVLImageProcessor(), DeepseekVLHybridImageProcessor(), DeepseekVL2ImageProcessor()]
)
@pytest.mark.parametrize("return_tensors", ["pt", "np", None])
def test_threads_change_nothing(processor, return_tensors, threads):
    pictures = [noise(700 + 30 * number, 400, number) for number in range(5)]
    found = []
    for count in (1, 4):
        threads(count)
        found.append([processor(picture, return_tensors=return_tensors) for picture in pictures])
        found[-1].append(processor(pictures, return_tensors=return_tensors))
    for one, other in zip(*found, strict=True):
        assert set(one) == set(other)
        for name, values in one.items():
            assert type(values) is type(other[name])
            assert all(np.array_equal(value, twin) for value, twin in zip(values, other[name], strict=True))


def test_one_broken_picture_among_many_is_named(threads):
    threads(4)
    with pytest.raises(ValueError, match="empty image of 0 x 5"):
        DeepseekVLImageProcessor()([noise(50, 50), Image.new("RGB", (0, 5))])


# Towers


def test_chunks_of_every_kind_of_output():
    values = torch.arange(10.0).reshape(5, 2)

    def encode(part):
        return {"tensor": part, "nested": (part + 1, (part + 2,)), "nothing": None}

    whole, chunked = encode(values), in_chunks(encode, values, 2)
    assert torch.equal(chunked["tensor"], whole["tensor"])
    assert torch.equal(chunked["nested"][0], whole["nested"][0])
    assert torch.equal(chunked["nested"][1][0], whole["nested"][1][0])
    assert chunked["nothing"] is None


def test_copies_are_encoded_once():
    values = torch.tensor([1.0, 1.0, 2.0, 3.0, 4.0, 4.0])[:, None]
    seen = []
    found = encode_distinct(lambda part: seen.append(part) or (10 * part,), values, [(0, 1), (2, 3), (4, 5)])
    assert seen[0][:, 0].tolist() == [1, 2, 3, 4]
    assert torch.equal(found[0], 10 * values)


@torch.no_grad()
def test_models_encode_many_images_in_chunks(family):
    model = family.load()
    inputs = {
        name: torch.cat([value, value.flip(-1), value])
        for name, value in family.inputs(family.one_image).items()
        if name.endswith(("pixel_values", "tile_grids"))
    }
    assert model.image_batch_size == model.model.image_batch_size == 8
    whole = model.get_image_features(**inputs, output_hidden_states=True, return_dict=True)
    sizes = []
    towers = [getattr(model.model, name, None) for name in ("vision_model", "high_res_vision_model")]
    for tower in filter(None, towers):
        tower.register_forward_pre_hook(lambda tower, values: sizes.append(len(values[0])))
    model.image_batch_size = 2
    chunked = model.get_image_features(**inputs, output_hidden_states=True, return_dict=True)
    assert max(sizes) == 2
    copies = (inputs["tile_grids"].prod(1) == 1).sum() if family.is_vl2 else 0  # untiled images
    views = sum(len(value) for name, value in inputs.items() if name.endswith("pixel_values")) - copies
    assert sum(sizes) == (2 if family.is_ocr else 1) * views  # its towers read the same views
    assert type(chunked) is type(whole)
    assert set(chunked) == set(whole)
    for name in ("last_hidden_state", "high_res_vision_last_hidden_state"):
        if name in whole:
            torch.testing.assert_close(chunked[name], whole[name], rtol=0, atol=TOLERANCE)
    for one, other in zip(chunked.hidden_states, whole.hidden_states, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)
    for one, other in zip(chunked.pooler_output, whole.pooler_output, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_a_chunk_holds_an_image(family):
    with pytest.raises(ValueError, match="image_batch_size is 0; expected at least 1"):
        family.model.image_batch_size = 0


@torch.no_grad()
def test_an_untiled_image_of_vl2_is_encoded_once(vl2):
    model = vl2.load()
    sizes = []
    model.model.vision_model.register_forward_pre_hook(lambda tower, values: sizes.append(len(values[0])))
    processor = vl2.processor.image_processor
    pictures = [noise(500, 300), noise(800, 390, 1)]
    untiled = processor(pictures, tiling=False, return_tensors="pt")
    features = model.get_image_features(**untiled, return_dict=True)
    assert sizes == [2]
    assert features.last_hidden_state.shape[0] == len(untiled["pixel_values"]) == 4
    different = untiled["pixel_values"].clone()
    different[1] += 1
    model.get_image_features(different, untiled["tile_grids"], return_dict=True)
    assert sizes == [2, 3]
    tiled = processor(pictures, tiling=True, return_tensors="pt")
    model.get_image_features(**tiled, return_dict=True)
    assert sum(sizes[2:]) == len(tiled["pixel_values"])


@torch.no_grad()
def test_tiled_and_untiled_images_of_vl2_keep_their_features(vl2, monkeypatch):
    model, processor = vl2.load(), vl2.processor.image_processor
    pictures = [noise(700, 350), noise(500, 300, 1), noise(350, 700, 2), noise(300, 200, 3)]
    inputs = processor(pictures, tiling=[True, False, True, False], return_tensors="pt")
    assert inputs["tile_grids"].tolist() == [[2, 1], [1, 1], [1, 2], [1, 1]]
    found = model.get_image_features(**inputs, return_dict=True)
    monkeypatch.setattr(modeling_deepseek_vl2, "encode_distinct", lambda encode, pixels, pairs: encode(pixels))
    expected = model.get_image_features(**inputs, return_dict=True)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=TOLERANCE)
    for one, other in zip(found.pooler_output, expected.pooler_output, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)
