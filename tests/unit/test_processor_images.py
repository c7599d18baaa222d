"""Pictures on their way through the processor, and the image processor of the one-tower model."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from conversations import ask, chat, text
from deepseek_vl_hf import DeepseekVLImageProcessor

PLACEHOLDER = "<image_placeholder>"
TOKENS = 576


@pytest.fixture(scope="module")
def picture(images):
    return Image.open(images / "tall.png")


def test_the_processor_takes_a_finished_prompt_at_its_word(processor, picture):
    inputs = processor(text=f"{PLACEHOLDER} and {PLACEHOLDER}", images=[picture, picture])
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 2 * TOKENS
    assert inputs["pixel_values"].shape == (2, 3, 384, 384)


def test_every_form_of_an_image_gives_the_same_pixels(processor, images, picture):
    path = images / "tall.png"
    array = np.asarray(picture)
    forms = [
        picture,
        str(path),
        path,
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        [picture],
        [[picture]],
        array[None],
        [str(path)],
    ]
    expected = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    for form in forms:
        assert torch.equal(processor(text=PLACEHOLDER, images=form)["pixel_values"], expected)


@pytest.mark.parametrize("key", ["image", "url", "path"])
def test_every_key_of_an_image_part(processor, images, picture, key):
    path = str(images / "tall.png")
    inputs = chat(processor, ask({"type": "image", key: path}, text("Hi")))
    assert torch.equal(inputs["pixel_values"], processor(text=PLACEHOLDER, images=picture)["pixel_values"])


def test_pictures_in_messages(processor, picture):
    inputs = chat(processor, ask({"type": "image", "image": picture}, text("Hi")))
    assert inputs["pixel_values"].shape == (1, 3, 384, 384)


@pytest.mark.parametrize("none", [None, [], [[]]])
def test_no_images(processor, none):
    assert "pixel_values" not in processor(text="Hi", images=none)


def test_images_only(processor, picture):
    assert set(processor(images=picture)) == {"pixel_values"}


@pytest.mark.parametrize(
    ("prompts", "pictures", "message"),
    [
        ([PLACEHOLDER], 0, r"1 image places .* by prompt \[1\], but 0 images"),
        (["Hi"], 1, r"0 image places .*but 1 images"),
        ([PLACEHOLDER, PLACEHOLDER * 2], 2, r"3 image places .*by prompt \[1, 2\], but 2 images"),
        ([PLACEHOLDER, PLACEHOLDER], [1, 0], "Conversation 2 has 1 image places .* but 0 images"),
        ([PLACEHOLDER, PLACEHOLDER], [2, 0], "Conversation 1 has 1 image places .* but 2 images"),
    ],
)
def test_images_and_places_differ(processor, picture, prompts, pictures, message):
    images = [picture] * pictures if isinstance(pictures, int) else [[picture] * count for count in pictures]
    with pytest.raises(ValueError, match=message):
        processor(text=prompts, images=images)


def test_conversation_with_an_image_part_but_no_image(processor, picture):
    batch = [ask({"type": "image", "image": picture}, text("a")), ask({"type": "image"}, text("b"))]
    with pytest.raises(ValueError, match=r"Conversation 2 has 1 image places .* but 0 images"):
        chat(processor, batch)


def test_image_processor_steps_can_be_left_out(picture):
    processor = DeepseekVLImageProcessor()
    assert processor(picture, do_resize=False, return_tensors="pt")["pixel_values"].shape == (1, 3, 401, 401)
    assert processor(picture, do_pad=False, return_tensors="pt")["pixel_values"].shape == (1, 3, 384, 92)
    raw = processor(picture, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    scaled = processor(picture, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(raw / 255, scaled)
    black = processor(picture, background_color=[0, 0, 0], do_normalize=False, return_tensors="pt")["pixel_values"]
    assert black[0, :, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [{"height": 384, "width": 200}, {"shortest_edge": 384}])
def test_sizes_that_are_not_square(picture, size):
    with pytest.raises(ValueError, match="expected an equal height and width"):
        DeepseekVLImageProcessor()(picture, size=size)


@pytest.mark.parametrize("one", [lambda picture, path: picture, lambda picture, path: path])
def test_one_image_of_the_original_shape_needs_no_list(processor, images, picture, one):
    source = one(picture, images / "tall.png")
    inputs = chat(processor, [{"role": "User", "content": PLACEHOLDER, "images": source}])
    assert inputs["pixel_values"].shape[0] == 1


@pytest.mark.parametrize("nest", [lambda p: [[[p, p]]], lambda p: [torch.zeros(2, 3, 50, 60, dtype=torch.uint8)]])
def test_deeply_nested_pictures_are_counted_one_by_one(processor, picture, nest):
    with pytest.raises(ValueError, match=r"1 image places .* but 2 images"):
        processor(text=[PLACEHOLDER], images=nest(picture))


def test_more_lists_of_images_than_prompts(processor, picture):
    with pytest.raises(ValueError, match="images holds 3 lists, but there are 2 prompts"):
        processor(text=[PLACEHOLDER, PLACEHOLDER], images=[[picture], [picture], []])


@pytest.mark.parametrize("wrong", [3, {"url": "cat.png"}, open])
def test_things_that_are_no_picture(processor, wrong):
    with pytest.raises(TypeError, match=f"^Image 0 of 1: Found a {type(wrong).__name__} where a picture was expected"):
        processor(text=PLACEHOLDER, images=wrong)
    with pytest.raises(TypeError, match=f"Found a {type(wrong).__name__} where a picture was expected"):
        processor.image_processor(wrong)


def test_a_missing_file_in_a_message(processor):
    with pytest.raises(ValueError, match=r"^Image 0 of 1: There is no file 'cat.jpg'"):
        chat(processor, ask({"type": "image", "path": "cat.jpg"}, text("Hi")))


def test_urls(processor, images, picture):
    handler = partial(SimpleHTTPRequestHandler, directory=str(images))
    handler.log_message = lambda *args: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/tall.png"
        found = chat(processor, ask({"type": "image", "url": url}, text("Hi")))
        server.shutdown()
    assert torch.equal(found["pixel_values"], processor.image_processor(picture, return_tensors="pt")["pixel_values"])


def test_filter_and_scale_are_obeyed(picture):
    processor = DeepseekVLImageProcessor(do_normalize=False)
    plain = processor(picture, return_tensors="pt")["pixel_values"]
    nearest = processor(picture, resample=Image.NEAREST, return_tensors="pt")["pixel_values"]
    assert not torch.equal(plain, nearest)
    assert torch.allclose(processor(picture, rescale_factor=2 / 255, return_tensors="pt")["pixel_values"], 2 * plain)


def test_one_mean_for_all_channels(picture):
    one = DeepseekVLImageProcessor(image_mean=0.5, image_std=0.5)(picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(one, DeepseekVLImageProcessor()(picture, return_tensors="pt")["pixel_values"])
