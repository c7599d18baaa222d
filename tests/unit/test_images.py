import base64
import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import ChannelDimension

from deepseek_vl_hf import DeepseekVL2ImageProcessor, DeepseekVLHybridImageProcessor, DeepseekVLImageProcessor
from deepseek_vl_hf.pictures.opening import flatten_pictures, open_image, open_images, to_rgb
from deepseek_vl_hf.pictures.pixels import pad_to_square, padding_color, scale_pixels, scaling_table
from deepseek_vl_hf.pictures.sizes import fitted_size, num_grid_tokens


def gradient(width: int, height: int) -> Image.Image:
    """A picture whose pixels all differ, so that a flip or a shift shows."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows % 256, columns % 256, (rows + columns) % 256], -1).astype(np.uint8))


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (640, 231, (384, 138)),  # 138.6: rounding would give 139
        (97, 401, (92, 384)),  # 92.89: rounding would give 93
        (300, 300, (384, 384)),
        (9, 700, (14, 384)),  # 4.9, raised to the smallest size
        (1, 5000, (14, 384)),
        (5000, 1, (384, 14)),
        (1, 1, (384, 384)),
    ],
)
def test_fitted_size_of_known_pictures(width, height, expected):
    assert fitted_size(width, height, side=384, min_size=14) == expected


def test_fitted_size_truncates_over_many_sizes():
    rounded_differs = 0
    for width in range(1, 900, 7):
        for height in range(1, 900, 11):
            fitted = fitted_size(width, height, side=384, min_size=14)
            longest = max(width, height)
            assert max(fitted) == 384
            for edge, size in zip((width, height), fitted, strict=True):
                # Integers say what truncation means; a float quotient may fall one short of an exact integer.
                exact = max(edge * 384 // longest, 14)
                assert size == exact or (edge * 384 % longest == 0 and size == exact - 1)
                rounded_differs += round(edge * 384 / longest) > size
    assert rounded_differs > 1000


@pytest.mark.parametrize(("image_size", "patch_size", "tokens"), [(384, 16, 576), (384, 14, 729), (28, 14, 4)])
def test_num_image_tokens(image_size, patch_size, tokens):
    assert num_grid_tokens(image_size, patch_size) == tokens


def test_num_image_tokens_of_an_image_below_a_patch():
    with pytest.raises(ValueError, match=r"8 x 8 pixels holds no patch of 16 x 16"):
        num_grid_tokens(8, 16)


@pytest.mark.parametrize(("size", "offset"), [((10, 7), (0, 1)), ((7, 10), (1, 0)), ((10, 6), (0, 2))])
def test_padding_is_centered_with_the_odd_pixel_behind(size, offset):
    image = gradient(*size)
    square = pad_to_square(image, (1, 2, 3))
    assert square.size == (10, 10)
    left, top = offset
    assert np.array_equal(np.asarray(square)[top : top + size[1], left : left + size[0]], np.asarray(image))
    assert square.getpixel((9, 9)) == (1, 2, 3)


def test_square_pictures_are_not_padded():
    image = gradient(8, 8)
    assert pad_to_square(image, (0, 0, 0)) is image


def test_padding_colors_of_the_published_sizes():
    assert padding_color([0.5, 0.5, 0.5]) == (127, 127, 127)
    assert padding_color([0.48145466, 0.4578275, 0.40821073]) == (122, 116, 104)


def test_scaling_table_is_float32_division_by_255():
    values = np.arange(256, dtype=np.float32)
    assert np.array_equal(scaling_table(1 / 255)[0], values / np.float32(255))
    assert np.array_equal(scaling_table(None)[0], values)


def test_scaling_table_normalizes_per_channel():
    mean, std = [0.5, 0.4, 0.3], [0.5, 0.2, 0.1]
    table = scaling_table(1 / 255, mean, std)
    x = torch.arange(256, dtype=torch.float32) / 255
    for channel in range(3):
        assert torch.equal(torch.from_numpy(table[channel]), (x - mean[channel]) / std[channel])


def test_scale_pixels_equals_arithmetic_on_the_float_image():
    pixels = np.asarray(gradient(13, 9))
    found = torch.from_numpy(scale_pixels(pixels, scaling_table(1 / 255, [0.5] * 3, [0.5] * 3)))
    expected = (torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    assert found.shape == (3, 9, 13)
    assert torch.equal(found, expected)


def test_rgb_pictures_in_memory_are_neither_copied_nor_changed(images):
    from_file = Image.open(images / "tall.png")
    assert type(to_rgb(from_file)) is Image.Image
    image = gradient(300, 300)
    before = image.tobytes()
    assert to_rgb(image) is image
    for processor in (DeepseekVLImageProcessor(), DeepseekVLHybridImageProcessor(), DeepseekVL2ImageProcessor()):
        processor(image, return_tensors="pt")
    DeepseekVLImageProcessor(do_resize=False)(image, return_tensors="pt")["pixel_values"].zero_()
    assert image.tobytes() == before


@pytest.mark.parametrize("transparency", ["white", "drop"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I"])
def test_opaque_pictures_of_8_bits_are_converted_as_pillow_does(mode, transparency):
    image = gradient(20, 10)
    image = image.convert("P").convert(mode) if mode == "PA" else image.convert("RGBA").convert(mode)
    assert image.mode == mode
    assert to_rgb(image, transparency=transparency).tobytes() == image.convert("RGB").tobytes()


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert to_rgb(open_image(tmp_path / "moving.gif")).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "convert",
    [
        lambda array: array,
        lambda array: array.transpose(2, 0, 1),
        lambda array: array.astype(np.int64),
        lambda array: array.astype(np.float32) / 255,
        lambda array: torch.from_numpy(array.copy()).permute(2, 0, 1),
        lambda array: (torch.from_numpy(array.copy()).permute(2, 0, 1) / 255).to(torch.float64),
    ],
    ids=["HWC", "CHW", "int64", "float", "tensor", "float tensor"],
)
def test_arrays_give_the_same_pixels_as_the_picture(convert):
    image = gradient(20, 10)
    assert to_rgb(convert(np.asarray(image))).tobytes() == image.tobytes()


def test_gray_arrays():
    gray = np.asarray(gradient(20, 10).convert("L"))
    for array in (gray, gray[None], gray[..., None]):
        assert to_rgb(array).tobytes() == Image.fromarray(gray).convert("RGB").tobytes()


def test_floats_may_leave_the_range_by_a_rounding_error():
    array = np.full((7, 5, 3), 1.0000001, np.float32)
    assert to_rgb(array).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("shape", "size"), [((1, 50, 3), (50, 1)), ((3, 50, 1), (1, 50)), ((4, 1, 50), (50, 1))])
def test_pictures_of_one_row_or_column(shape, size):
    assert to_rgb(np.zeros(shape, np.uint8)).size == size


@pytest.mark.parametrize("shape", [(3, 50, 3), (3, 50, 4), (1, 50, 1)])
def test_shapes_that_can_be_read_both_ways(shape):
    array = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match="channels may stand first or last"):
        to_rgb(array)
    assert to_rgb(array, "channels_last").size == (50, shape[0])
    assert to_rgb(array, "channels_first").size == (shape[2], 50)
    assert to_rgb(array, ChannelDimension.FIRST).size == (shape[2], 50)


def test_a_format_that_the_shape_does_not_have():
    with pytest.raises(ValueError, match=r"with 1, 3, 4 channels \(channels_last was asked for\)"):
        to_rgb(np.zeros((3, 50, 60), np.uint8), "channels_last")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 10, 20), np.uint8), r"shape \[5, 10, 20\].*with 1, 3, 4 channels"),
        (np.zeros((2, 3, 10, 20), np.uint8), r"shape \[2, 3, 10, 20\]"),
        (np.zeros((0, 20, 3), np.uint8), "empty image of 20 x 0"),
        (np.full((10, 20, 3), 65536), "values from 65536 to 65536"),
        (np.full((10, 20, 3), -1), "values from -1 to -1"),
        (np.full((10, 20, 3), -1.5), "values from -1.5 to -1.5.*before any normalization"),
        (np.full((10, 20, 3), np.nan), "values from nan to nan"),
    ],
)
def test_bad_arrays(array, message):
    with pytest.raises(ValueError, match=message):
        to_rgb(array)


def test_things_that_are_no_picture():
    with pytest.raises(TypeError, match="Found a dict where a picture was expected"):
        to_rgb(open_image({"url": "cat.png"}))


def test_sources_give_the_same_picture(tmp_path):
    image = gradient(20, 10)
    (tmp_path / "picture.png").write_bytes(png_bytes(image))
    encoded = base64.b64encode(png_bytes(image)).decode()
    for source in (
        str(tmp_path / "picture.png"),
        tmp_path / "picture.png",
        f"data:image/png;base64,{encoded}",
        encoded,
    ):
        assert open_image(source).tobytes() == image.tobytes()
    assert open_image(image) is image


@pytest.mark.parametrize("source", ["data:image/png;base64,AAAA", "data:image/png;base64", "http://localhost:1/a.png"])
def test_unreadable_sources(source):
    with pytest.raises(ValueError, match=r"No image could be read from .*Expected a complete image"):
        open_image(source)


@pytest.mark.parametrize("source", ["nowhere.png", "~/nowhere.png", "file:///nowhere.png", "Describe this image."])
def test_files_that_do_not_exist(source):
    with pytest.raises(ValueError, match=r"There is no file .*Expected a path to an image file, an http\(s\) URL"):
        open_image(source)


def test_errors_name_the_picture():
    with pytest.raises(ValueError, match=r"^Image 1 of 2: There is no file 'nowhere.png'"):
        open_images([gradient(3, 3), "nowhere.png"])
    with pytest.raises(TypeError, match=r"^Image 0 of 1: Found a int where a picture was expected"):
        open_images([3])


def test_orientation_tags_are_applied_to_files_but_not_to_pictures(tmp_path):
    """transformers turns what it loads; a Pillow image is taken as it is."""
    path, image = tmp_path / "turned.jpg", gradient(20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    assert open_image(path).size == (10, 20)
    assert to_rgb(Image.open(path)).size == (20, 10)


def test_flatten_pictures():
    a, b, c = (gradient(3, 3) for _ in range(3))
    assert flatten_pictures(a) == [a]
    assert flatten_pictures([a, [b, (c,)]]) == [a, b, c]
    assert [x.shape for x in flatten_pictures([np.zeros((2, 5, 5, 3)), [torch.zeros(1, 3, 5, 5)]])] == [
        (5, 5, 3),
        (5, 5, 3),
        (3, 5, 5),
    ]


def test_error_does_not_print_a_long_source():
    with pytest.raises(ValueError, match="No image could be read") as caught:
        open_image("data:image/png;base64," + "A" * 100_000)
    assert len(str(caught.value)) < 1000


def test_truncated_file(tmp_path):
    path = tmp_path / "truncated.png"
    complete = png_bytes(gradient(300, 300))
    path.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(ValueError, match=r"No image could be read from .*truncated"):
        open_image(path)
    with pytest.raises(ValueError, match=r"300 x 300 pixels in mode RGB could not be decoded: OSError.*truncated"):
        to_rgb(Image.open(path))


def test_empty_file(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"No image could be read from '.*empty.png': it is empty"):
        open_image(tmp_path / "empty.png")


def test_decompression_bombs_stay_refused(tmp_path, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(png_bytes(Image.new("1", (1000, 1000))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="DecompressionBombError"):
        open_image(tmp_path / "bomb.png")


def test_the_limit_against_bombs_is_pillows_own():
    import deepseek_vl_hf  # noqa: F401, PLC0415 - importing must not lift it

    assert Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_rgb(gradient(10, 10))
