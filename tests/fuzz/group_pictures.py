"""Pictures: files of all formats and modes, whole and damaged, arrays and tensors of all types, and what is none.

The image processor hands the pixels back without resizing, and they are compared with what a person sees.
"""

import base64
import io
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import torch
from PIL import Image

import seen
from running import often
from verdict import NotRefusedError, OtherValueError, Recipe, accepting
from world import checkpoint, scratch

# What Pillow writes of each mode; a mode that a format lacks is handed on as a Pillow image.
FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("L", "RGB", "RGBA", "P"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "TGA": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "ICO": ("L", "P", "RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "AVIF": ("RGB", "RGBA"),
}
MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I;16",
    "I;16B",
    "I",
    "F",
)
# Of the others some are numbers without a range, or modes from which Pillow converts to few.
GOOD_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16")
FORMS = ("path", "text", "blanks", "file://", "data:", "base64", "bytes", "BytesIO", "file", "dict", "pillow", "opened")
RANGES = ("unit", "bits", "byte", "word", "beyond", "negative", "nan")
DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")
ODD_DTYPES = ("bool", "complex64", "object", "U1", "M8[s]")
OBJECTS = (
    "None",
    "int",
    "set",
    "empty list",
    "empty dict",
    "dict",
    "cyclic list",
    "generator",
    "empty text",
    "html",
    "nul",
)


def recipes() -> st.SearchStrategy[Recipe]:
    edge = st.sampled_from((1, 2, 3, 4, 7, 16, 33, 200))
    picture = {"width": edge, "height": edge, "seed": st.integers(0, 10**6), "range": st.sampled_from(RANGES)}
    picture["transparency"] = st.sampled_from((None, None, "drop"))
    file = {
        **picture,
        "format": st.sampled_from(sorted(FORMATS)),
        "mode": st.sampled_from(MODES),
        "alpha": st.sampled_from(("opaque", "binary", "any")),
        "orientation": st.sampled_from((1, 1, 1, 3, 6, 7, 9)),
        "damage": st.sampled_from(("none", "none", "cut", "flip", "append", "zeros", "header")),
        "at": st.integers(0, 2**16),
        "as": st.sampled_from(FORMS),
    }
    array = {
        **picture,
        "dtype": st.sampled_from((*DTYPES, *DTYPES, *ODD_DTYPES, "bfloat16")),
        "channels": st.sampled_from((0, 1, 2, 3, 3, 4, 5)),
        "first": st.booleans(),
        "tensor": st.booleans(),
    }
    scaled = {key: picture[key] for key in ("width", "height", "seed")} | {
        "floats": st.booleans(),
        "tensor": st.booleans(),
        "do_rescale": st.booleans(),
        "do_normalize": st.booleans(),
    }
    files = st.fixed_dictionaries({"what": st.just("file"), **file})
    return often(
        files,
        files,
        files,
        st.fixed_dictionaries({"what": st.just("array"), **array}),
        st.fixed_dictionaries({"what": st.just("scaled"), **scaled}),
        st.fixed_dictionaries(
            {"what": st.just("object"), "object": st.sampled_from(OBJECTS), "seed": st.integers(0, 99)}
        ),
    )


def check(recipe: Recipe) -> None:
    {"file": _check_file, "array": _check_array, "scaled": _check_scaled, "object": _check_object}[recipe["what"]](
        recipe
    )


def _pixels(picture: Any, transparency: str | None) -> np.ndarray:
    """The 8-bit picture as the image processor reads it."""
    options = {"transparency": transparency} if transparency else {}
    values = _process(picture, do_normalize=False, **options) * 255
    return values.round().astype(np.uint8).transpose(1, 2, 0)


def _process(picture: Any, **options: Any) -> np.ndarray:
    """float [channels, height, width]"""
    processor = checkpoint("vl", "original").processor.image_processor
    found = processor(picture, do_resize=False, do_pad=False, return_tensors="np", **options)["pixel_values"]
    return found[0]


def _compare(picture: Any, expected: np.ndarray | None, transparency: str | None, exact: bool, good: bool) -> None:
    """Compares; a good picture may not be refused, and one without an answer not be accepted."""
    if expected is None:
        _pixels(picture, transparency)
        raise NotRefusedError("no picture")
    if good:
        with accepting("a good picture"):
            found = _pixels(picture, transparency)
    else:
        found = _pixels(picture, transparency)
    difference = seen.difference(found, expected)
    if difference is None or difference > (0 if exact else 1):
        raise OtherValueError(f"pixels differ by {difference}, sizes {found.shape} and {expected.shape}")


def _numbers(recipe: Recipe, channels: int, dtype: str) -> np.ndarray:
    """[height, width, channels] of the recipe's range, as far as the type has it."""
    random = np.random.default_rng(recipe["seed"])
    top = {"unit": 1, "bits": 1, "byte": 255, "word": 65535, "beyond": 10**6, "negative": 255, "nan": 1}[
        recipe["range"]
    ]
    values = random.random((recipe["height"], recipe["width"], channels)) * top
    if recipe["range"] in ("bits", "byte", "word"):
        values = np.round(values)
    if recipe["range"] == "negative":
        values -= 128
    if recipe["range"] == "nan" and dtype[0] in "fF":
        values.flat[0] = np.nan
    if dtype[0] in "ui":
        limits = np.iinfo(dtype)
        values = np.clip(values, limits.min, limits.max)
    return values.astype(dtype)


def _image(recipe: Recipe) -> Image.Image:
    """A Pillow image of the recipe's mode."""
    mode = recipe["mode"]
    if mode in ("I", "F") or mode.startswith("I;16"):
        dtype = {"I": "int32", "F": "float32"}.get(mode, "uint16")
        image = Image.fromarray(_numbers(recipe, 1, dtype)[..., 0])
        return image.convert("I").convert("I;16B") if mode == "I;16B" else image
    rgba = np.random.default_rng(recipe["seed"]).integers(
        0, 256, (recipe["height"], recipe["width"], 4), dtype=np.uint8
    )
    rgba[..., 3] = {"opaque": 255, "binary": rgba[..., 3] // 128 * 255, "any": rgba[..., 3]}[recipe["alpha"]]
    image = Image.fromarray(rgba)
    if mode == "LAB":
        return Image.merge("LAB", image.convert("RGB").split())
    if mode in ("P", "PA"):
        image = image.convert("RGB").convert("P")
        if mode == "PA":
            return image.convert("PA")
        if recipe["alpha"] != "opaque":
            image.info["transparency"] = recipe["seed"] % 256 if recipe["alpha"] == "binary" else bytes(range(256))
        return image
    return image.convert("LA").convert("La") if mode == "La" else image.convert(mode)


def _check_file(recipe: Recipe) -> None:
    image, transparency = _image(recipe), recipe["transparency"]
    content = _written(image, recipe)
    if content is None or recipe["as"] == "pillow":
        expected = seen.of_image(image, transparency)
        _compare(image, expected, transparency, _is_opaque_8_bit(image, transparency), good=image.mode in GOOD_MODES)
        return
    good = recipe["damage"] == "none"
    expected = seen.of_file(io.BytesIO(content), transparency)
    exact = expected is not None and _is_opaque_8_bit(Image.open(io.BytesIO(content)), transparency)
    with scratch() as folder:
        path = folder / "a picture.bin"
        path.write_bytes(content)
        if recipe["as"] == "opened":
            _check_opened(path, expected, transparency, exact)
            return
        source = _given(path, content, recipe["as"])
        try:
            _compare(source, expected, transparency, exact, good and expected is not None)
        finally:
            if isinstance(source, io.IOBase):
                _check_that_it_is_usable(source, content)


def _check_opened(path: Path, expected: np.ndarray | None, transparency: str | None, exact: bool) -> None:
    """A Pillow image that has not read its pixels, and that is not turned by its orientation."""
    try:
        image = Image.open(path)
    except Exception:  # then there is nothing to hand on
        raise ValueError("Pillow itself opens no such file") from None
    if image.getexif().get(0x0112, 1) == 1 or expected is None:
        _compare(image, expected, transparency, exact, good=False)


def _is_opaque_8_bit(image: Image.Image, transparency: str | None) -> bool:
    numbers = image.mode == "F" or image.mode.startswith("I")
    see_through = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    return not numbers and (transparency == "drop" or not see_through)


def _written(image: Image.Image, recipe: Recipe) -> bytes | None:
    """The file's bytes, damaged as the recipe says; None where Pillow does not write this mode so."""
    format_ = recipe["format"]
    if recipe["mode"] not in FORMATS[format_]:
        return None
    file, options = io.BytesIO(), {}
    if recipe["orientation"] != 1 and format_ in ("PNG", "JPEG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = recipe["orientation"]
        options["exif"] = exif
    try:
        image.save(file, format_, **options)
    except (OSError, ValueError, KeyError):  # this Pillow lacks the format, or the size does not suit it
        return None
    return _damaged(file.getvalue(), recipe["damage"], recipe["at"])


def _damaged(content: bytes, damage: str, at: int) -> bytes:
    position = at % len(content)
    if damage == "cut":
        return content[:position]
    if damage == "append":
        return content + bytes(at % 1000)
    if damage == "zeros":
        return content[:position] + bytes(len(content) - position)
    changed = bytearray(content)
    if damage in ("flip", "header"):
        changed[position if damage == "flip" else at % min(64, len(content))] ^= 1 + at % 255
    return bytes(changed)


def _given(path: Path, content: bytes, form: str) -> Any:
    text = base64.b64encode(content).decode()
    return {
        "path": lambda: path,
        "text": lambda: str(path),
        "blanks": lambda: f" {path}\n",
        "file://": path.as_uri,
        "data:": lambda: f"data:image/png;base64,{text}",
        "base64": lambda: f"data:;base64,{text}" if len(text) < 100 else text,
        "bytes": lambda: content,
        "BytesIO": lambda: io.BytesIO(content),
        "file": lambda: path.open("rb"),
        "dict": lambda: {"bytes": content, "path": None} if len(content) % 2 else {"bytes": None, "path": str(path)},
    }[form]()


def _check_that_it_is_usable(file: Any, content: bytes) -> None:
    try:
        file.seek(0)
        usable = file.read() == content
        file.close()
    except ValueError:
        usable = False
    if not usable:
        raise OtherValueError("the caller's file was closed or detached")


def _check_array(recipe: Recipe) -> None:
    dtype, channels = recipe["dtype"], recipe["channels"]
    known = dtype in (*DTYPES, "bfloat16")
    numbers = _numbers(recipe, channels or 1, "float32" if dtype == "bfloat16" else dtype if known else "float64")
    if dtype == "bfloat16":
        numbers = torch.from_numpy(numbers).bfloat16().float().numpy()
    expected = seen.of_numbers(numbers, wide=dtype == "uint16", transparency=recipe["transparency"])
    array: Any = numbers if known else numbers.astype("i8").astype(dtype)
    array = array[..., 0] if channels == 0 else array.transpose(2, 0, 1) if recipe["first"] else array
    two_ways = channels and {array.shape[0], array.shape[-1]} <= {1, 3, 4}
    if channels in (2, 5) and {array.shape[0], array.shape[-1]} & {1, 3, 4}:
        # So many rows or columns are channels, if the array is read the other way round.
        other_way = array if recipe["first"] else array.transpose(1, 2, 0)
        expected = seen.of_numbers(other_way, dtype == "uint16", recipe["transparency"]) if known else None
    if recipe["tensor"] and known:
        array = torch.from_numpy(np.ascontiguousarray(array))
        array = array.bfloat16() if dtype == "bfloat16" else array
    if not known:
        if dtype == "bool":
            return _compare(array, array_of_bool(numbers), None, exact=True, good=False)
        expected = None
    elif two_ways:  # says so, or finds the right one
        channels_of = "channels_first" if recipe["first"] else "channels_last"
        options = {"transparency": "drop"} if recipe["transparency"] else {}
        found = _process(array, do_normalize=False, input_data_format=channels_of, **options)
        if expected is not None and seen.difference((found * 255).round().transpose(1, 2, 0), expected) not in (0, 1):
            raise OtherValueError(f"other pixels with input_data_format={channels_of!r}")
        if expected is None:
            raise NotRefusedError("no picture")
        return None
    return _compare(
        array, expected, recipe["transparency"], dtype == "uint8" and channels < 4, good=expected is not None
    )


def array_of_bool(numbers: np.ndarray) -> np.ndarray | None:
    """Of a mask, if it is a picture at all: black and white."""
    return seen.of_numbers(numbers.astype("i8").astype(bool).astype(np.uint8) * 255, wide=False, transparency=None)


def _check_scaled(recipe: Recipe) -> None:
    """Rescaling and normalizing are what the settings say, of bytes and of floats that are scaled already."""
    processor = checkpoint("vl", "original").processor.image_processor
    random = np.random.default_rng(recipe["seed"])
    pixels = random.integers(0, 256, (recipe["height"] + 4, recipe["width"] + 4, 3), dtype=np.uint8)
    picture: Any = pixels.astype(np.float32) / 255 if recipe["floats"] else pixels
    expected = pixels / 255 if recipe["floats"] or recipe["do_rescale"] else pixels.astype(np.float64)
    if recipe["do_normalize"]:
        expected = (expected - np.array(processor.image_mean)) / np.array(processor.image_std)
    if recipe["tensor"]:
        picture = torch.from_numpy(picture)
    options = {name: recipe[name] for name in ("do_rescale", "do_normalize")}
    with accepting("a good picture"):
        found = _process(picture, **options).transpose(1, 2, 0)
    if found.shape != expected.shape or np.abs(found - expected).max() > 1e-3 * max(1, np.abs(expected).max()):
        raise OtherValueError(
            f"values from {found.min()} to {found.max()}; {expected.min()} to {expected.max()} expected"
        )


def _check_object(recipe: Recipe) -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    picture = {
        "None": None,
        "int": recipe["seed"],
        "set": {1, 2},
        "empty list": [],
        "empty dict": {},
        "dict": {"bytes": None, "path": None} if recipe["seed"] % 2 else {"image": "x"},
        "cyclic list": cyclic,
        "generator": (each for each in ()),
        "empty text": " " * (recipe["seed"] % 3),
        "html": b"<html>no</html>" * (1 + recipe["seed"]),
        "nul": "a\x00b" * (1 + recipe["seed"] * 100),
    }[recipe["object"]]
    _process(picture)
    raise NotRefusedError("no picture")
