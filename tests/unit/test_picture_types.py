"""What people have as pictures beyond 8-bit RGB: more bits, floats, transparency, files and bytes."""

import io
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conversations import ask, chat, text
from deepseek_vl_hf import (
    Chat,
    DeepseekVL2ImageProcessor,
    DeepseekVLHybridImageProcessor,
    DeepseekVLImageProcessor,
)
from deepseek_vl_hf.pictures.opening import flatten_pictures, open_image, open_images, to_rgb
from deepseek_vl_hf.training.collator import ConversationCollator

PROCESSORS = (DeepseekVLImageProcessor, DeepseekVLHybridImageProcessor, DeepseekVL2ImageProcessor)
GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def levels(picture):
    """The picture's 8-bit levels, of which all three channels have the same."""
    pixels = np.asarray(to_rgb(open_image(picture)))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


SIXTEEN = GRAY.astype(np.uint16) * 257
DEEP = {
    "I;16": Image.fromarray(SIXTEEN),
    "I;16B": Image.frombytes("I;16B", (16, 16), SIXTEEN.astype(">u2").tobytes()),
    "I": Image.fromarray(SIXTEEN.astype(np.int32)),
    "I, 8 bits": Image.fromarray(GRAY.astype(np.int32)),
    "PNG": encoded(Image.fromarray(SIXTEEN)),
    "TIFF": encoded(Image.fromarray(SIXTEEN), "TIFF"),
    "F": Image.fromarray(GRAY.astype(np.float32) / 255),
    "F, [0, 255]": Image.fromarray(GRAY.astype(np.float32)),
    "TIFF of floats": encoded(Image.fromarray(GRAY.astype(np.float32) / 255), "TIFF"),
    **{f"{kind} array": SIXTEEN.astype(kind) for kind in ("uint16", ">u2", "int32", "int64", "uint32")},
    **{f"{kind} array, 8 bits": GRAY.astype(kind) for kind in ("int16", "int32", "int64", "uint64")},
    **{f"{kind} array": GRAY.astype(kind) / 255 for kind in ("float32", "float64")},
    **{f"{kind} array, [0, 255]": GRAY.astype(kind) for kind in ("float16", "float32", "float64")},
    "channels": np.repeat(SIXTEEN[..., None], 3, axis=2),
    "uint16 tensor": torch.from_numpy(SIXTEEN)[None],
    "int64 tensor": torch.from_numpy(SIXTEEN.astype(np.int64))[None],
    "float tensor": torch.from_numpy(GRAY / 255)[None],
    "bfloat16 tensor": torch.from_numpy(GRAY.astype(np.float32))[None].to(torch.bfloat16),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_bits_and_floats_are_scaled(name):
    assert np.array_equal(levels(DEEP[name]), GRAY)


def test_sixteen_bits_are_rounded_to_the_nearest_level():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(levels(values), np.round(values / 257.0).astype(np.uint8))
    # uint16 and I;16 have 16 bits whatever their values; a dark picture is not an 8-bit one.
    assert (
        levels(np.full((4, 4), 255, np.uint16)).max()
        == levels(Image.fromarray(np.full((4, 4), 255, np.uint16))).max()
        == 1
    )


def test_twelve_bits_of_a_tiff():
    values = np.array([[0, 4095, 2048, 16]], np.uint16)
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10])
    tags = [(256, 3, 4), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 1)]
    tags += [(279, 4, len(packed))]
    entries = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, kind, value in tags
    )
    data = b"II*\0" + (14).to_bytes(4, "little") + packed + len(tags).to_bytes(2, "little") + entries + bytes(4)
    assert levels(data).tolist() == np.round(values / 4095 * 255).astype(int).tolist()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[0.0, 255.5]]), r"values from 0 to 255.5; expected .*floats in \[0, 1\] or \[0, 255\]"),
        (np.array([[-0.1, 1.0]]), "values from -0.1 to 1"),
        (np.array([[0.0, 1.2]]), "values from 0 to 1.2"),  # overshoot of [0, 1], not black in [0, 255]
        (np.array([[-3.0, 200.0]]), "values from -3 to 200"),
        (np.array([[np.nan, 0.5]]), "values from nan to nan"),
        (np.array([[np.inf, 0.5]]), "values from 0.5 to inf"),
        (np.array([[0, 65536]]), "values from 0 to 65536"),
        (np.array([[-1, 5]], np.int16), "values from -1 to 5"),
        (np.array([[True, False]]), "image array of bool"),
        (np.array([[1j, 0]]), "image array of complex128"),
        (np.array([["a", "b"]]), "image array of <U1"),
        (np.array([[None, 1]], dtype=object), "image array of object"),
        (np.array([None, [1, 2]], dtype=object), "image array of object"),
    ],
)
def test_numbers_that_are_no_picture(array, message):
    with pytest.raises(ValueError, match=message):
        to_rgb(array)
    if array.dtype in (np.float64, np.int64):
        pillow = Image.fromarray(array.astype(np.float32 if array.dtype.kind == "f" else np.int32))
        with pytest.raises(ValueError, match="with values from"):
            to_rgb(pillow)


def test_a_tensor_without_numbers():
    with pytest.raises(ValueError, match=r"tensor of torch.uint8 on the device meta could not be read as a picture"):
        to_rgb(torch.empty(3, 4, 4, dtype=torch.uint8, device="meta"))


def drawn(alpha=255):
    """Red, half of it as transparent as said; beneath a transparent place usually lies black."""
    pixels = np.full((20, 30, 4), (200, 40, 40, 255), np.uint8)
    pixels[:, 15:] = (0, 0, 0, alpha)
    return Image.fromarray(pixels)


def with_key(mode, size=(6, 4)):
    """A picture in which one color is transparent, by what its file says."""
    image = Image.new(mode, size)
    image.paste(1 if mode in ("1", "P") else (9, 9, 9) if mode == "RGB" else 9, (0, 0, 3, 4))
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 10, 10])
    image.info["transparency"] = (0, 0, 0) if mode == "RGB" else 0
    return image


def with_palette_and_alpha():
    image = drawn(0).convert("P")
    image.putalpha(drawn(0).getchannel("A"))
    assert image.mode == "PA"
    return image


TRANSPARENT = {
    "RGBA": drawn(0),
    "LA": drawn(0).convert("LA"),
    "PA": with_palette_and_alpha(),
    "RGBa": drawn(0).convert("RGBa"),
    "La": drawn(0).convert("LA").convert("La"),
    "array": np.asarray(drawn(0)),
    "tensor": torch.from_numpy(np.asarray(drawn(0)).copy()).permute(2, 0, 1),
    "float array": np.asarray(drawn(0)) / 255,
    "uint16 array": np.asarray(drawn(0)).astype(np.uint16) * 257,
    "PNG": encoded(drawn(0)),
    "WebP": encoded(drawn(0), "WEBP", lossless=True),
    "GIF": encoded(drawn(0), "GIF"),
    "palette with alphas": encoded(drawn(0).quantize(8)),
    **{f"key in {mode}": with_key(mode) for mode in ("1", "L", "P", "RGB")},
    **{f"key in a PNG of {mode}": encoded(with_key(mode)) for mode in ("1", "L", "P", "RGB")},
    "key in 16 bits": encoded(Image.fromarray(np.repeat([[9000, 0]], 4, axis=0).astype(np.uint16)), transparency=0),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_shown_on_white(name):
    picture = open_image(TRANSPARENT[name])
    white, dropped = (np.asarray(to_rgb(picture, transparency=how)) for how in ("white", "drop"))
    half = white.shape[1] // 2
    assert (white[:, half:] == 255).all()
    assert np.array_equal(white[:, :half], dropped[:, :half])
    assert white[:, :half].max() < 255 or name.endswith(" 1")
    if isinstance(picture, Image.Image) and picture.mode not in (
        "La",
        "I;16",
    ):  # of which Pillow makes no RGB, or white
        assert dropped.tobytes() == picture.convert("RGB").tobytes()
    elif name == "array":
        assert np.array_equal(dropped, picture[..., :3])


def test_half_transparent_places():
    pixels = np.asarray(to_rgb(drawn(128)))
    assert np.array_equal(pixels[:, :15], np.asarray(drawn(128))[:, :15, :3])
    assert (pixels[:, 15:] == 127).all()


def test_opaque_alpha_changes_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    noise[..., 3] = 255
    assert np.array_equal(np.asarray(to_rgb(noise)), noise[..., :3])
    noise[0, 0, 3] = 0  # and opaque places of others stay as they are
    assert np.array_equal(np.asarray(to_rgb(noise))[1:], noise[1:, :, :3])


@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_setting_of_image_processors(kind, tmp_path):
    picture, options = drawn(0), {"return_tensors": "pt"}
    white = kind()(picture, **options)["pixel_values"]
    dropped = kind()(picture, transparency="drop", **options)["pixel_values"]
    assert torch.equal(white, kind()(to_rgb(picture), **options)["pixel_values"])
    assert torch.equal(dropped, kind()(picture.convert("RGB"), **options)["pixel_values"])
    assert not torch.equal(white, dropped)
    kind(transparency="drop").save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert loaded.transparency == "drop"
    assert torch.equal(loaded(picture, **options)["pixel_values"], dropped)
    old = {name: value for name, value in loaded.to_dict().items() if name != "transparency"}
    assert kind.from_dict(old).transparency == "white"


@pytest.mark.parametrize("wrong", ["black", "", True, 3])
def test_other_values_of_the_setting(wrong):
    calls = [lambda: to_rgb(drawn(0), transparency=wrong), lambda: DeepseekVLImageProcessor(transparency=wrong)]
    if isinstance(wrong, str):  # transformers refuses other types itself
        calls.append(lambda: DeepseekVLImageProcessor()(drawn(0), transparency=wrong))
    for call in calls:
        with pytest.raises(ValueError, match=r"transparency is .*; expected 'white', which .*, or 'drop'"):
            call()


def test_the_setting_on_every_way_to_the_model(vl):
    """Whoever opens pictures before the image processor does so by its setting."""
    processor, picture = vl.processor, drawn(0)
    image = processor.image_processor
    conversation = ask({"type": "image", "image": picture}, text("Hi"))
    answered = [*conversation, {"role": "assistant", "content": "Yes"}]
    before = image.transparency
    try:
        for how in ("white", "drop"):
            image.transparency = how
            expected = image(to_rgb(picture, transparency=how), return_tensors="pt")["pixel_values"]
            assert torch.equal(processor(images=picture)["pixel_values"], expected)
            assert torch.equal(chat(processor, conversation)["pixel_values"], expected)
            assert torch.equal(ConversationCollator(processor)([answered])["pixel_values"], expected)
            (opened,) = Chat(vl.model, processor)._turn("Hi", [picture]).pictures
            assert torch.equal(processor.process_picture(opened, 1)["pixel_values"], expected)
            other = {"white": "drop", "drop": "white"}[how]
            asked = processor(images=picture, transparency=other)["pixel_values"]
            assert torch.equal(asked, image(picture, transparency=other, return_tensors="pt")["pixel_values"])
            assert not torch.equal(asked, expected)
    finally:
        image.transparency = before


PICTURE = to_rgb(np.arange(600, dtype=np.int64).reshape(10, 20, 3) % 256)
DATA = encoded(PICTURE)


def spooled():
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - the test closes it
    file.write(DATA)
    return file


class Upload:
    """As asynchronous frameworks hand them over: to be read by `await`, around a plain file."""

    def __init__(self):
        self.file = spooled()

    async def read(self):
        raise AssertionError("nobody waits for this")


@pytest.mark.parametrize(
    "source",
    [
        DATA,
        bytearray(DATA),
        memoryview(DATA),
        {"bytes": DATA, "path": None},
        {"bytes": DATA},
        {"bytes": DATA, "path": "x"},
    ],
    ids=lambda source: type(source).__name__,
)
def test_bytes(vl, source):
    assert to_rgb(open_image(source)).tobytes() == PICTURE.tobytes()
    expected = vl.processor.image_processor(PICTURE, return_tensors="pt")["pixel_values"]
    conversation = ask({"type": "image", "image": source}, text("Hi"))
    answered = [*conversation, {"role": "assistant", "content": "Yes"}]
    assert torch.equal(vl.processor.image_processor(source, return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(vl.processor(images=[source])["pixel_values"], expected)
    assert torch.equal(chat(vl.processor, conversation)["pixel_values"], expected)
    assert torch.equal(ConversationCollator(vl.processor)([answered])["pixel_values"], expected)
    assert Chat(vl.model, vl.processor)._turn("Hi", source).pictures[0].tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize("position", [0, 5])
@pytest.mark.parametrize("kind", ["file", "BytesIO", "spooled", "upload"])
def test_open_files(vl, tmp_path, kind, position):
    (tmp_path / "a.png").write_bytes(DATA)
    source = {"file": lambda: (tmp_path / "a.png").open("rb"), "BytesIO": lambda: io.BytesIO(DATA)}
    source = {**source, "spooled": spooled, "upload": Upload}[kind]()
    file = getattr(source, "file", None) if kind == "upload" else source
    file.seek(position)
    expected = vl.processor.image_processor(PICTURE, return_tensors="pt")["pixel_values"]
    conversation = ask({"type": "image", "image": source}, text("Hi"))
    answered = [*conversation, {"role": "assistant", "content": "Yes"}]
    for found in (
        vl.processor.image_processor(source, return_tensors="pt"),
        vl.processor(images=source),
        chat(vl.processor, conversation),
        ConversationCollator(vl.processor)([answered]),
    ):
        assert torch.equal(found["pixel_values"], expected)
    assert Chat(vl.model, vl.processor)._turn("Hi", [source]).pictures[0].tobytes() == PICTURE.tobytes()
    assert file.tell() == position
    assert file.read(3) == DATA[position : position + 3]
    file.close()


def test_files_that_cannot_be_rewound():
    stream = SimpleNamespace(read=io.BytesIO(DATA).read)
    assert to_rgb(open_image(stream)).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (io.StringIO("text"), TypeError, r"Reading a StringIO gave str .*binary mode"),
        (io.BytesIO(b""), ValueError, "No image could be read from a BytesIO: it is empty"),
        (
            b"<!DOCTYPE html><p>no",
            ValueError,
            "No image could be read from 20 bytes: it is a web page; link to the pic",
        ),
        (b"\xef\xbb\xbf\n<html>", ValueError, "it is a web page"),
        (b'<?xml version="1.0"?><svg>', ValueError, "it is an SVG drawing"),
        (b"%PDF-1.7", ValueError, "it is a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1", ValueError, r"pointer of a Git LFS file; fetch .*git lfs pull"),
        (b"nothing", ValueError, "it begins with b'nothing', and is not a picture"),
        (DATA[: len(DATA) // 2], ValueError, "truncated"),
        ({"bytes": None, "path": None}, ValueError, "the bytes are None and the path is None; expected one of them"),
        ({"bytes": "text"}, TypeError, "Found a str as a picture's bytes"),
        ({"bytes": None, "path": "no.png"}, ValueError, "There is no file 'no.png'"),
        ({"bytes": b"no", "path": "a.png"}, ValueError, "No image could be read from 'a.png'"),
    ],
)
def test_files_and_bytes_that_are_no_picture(source, kind, message):
    with pytest.raises(kind, match=message):
        open_images([source])


def test_a_closed_file():
    file = io.BytesIO(DATA)
    file.close()
    with pytest.raises(ValueError, match=r"No image could be read from a BytesIO: ValueError: .*closed file"):
        open_image(file)


def test_lists_that_hold_themselves(processor):
    lists = [PICTURE]
    lists.append(lists)
    for call in (flatten_pictures, processor.image_processor, lambda images: processor(images=images)):
        with pytest.raises(ValueError, match="nested more than 16 deep, or one of them holds itself"):
            call(lists)
