"""The small trained models that come with the package, and pictures that they answer questions about."""

from pathlib import Path

NANO, NANO_VL2 = "nano", "nano-vl2"
# Names, as people pass them, and folders.
MODELS = {NANO: "checkpoint", NANO_VL2: "checkpoint_vl2"}
PICTURES = ("chart", "places", "shapes", "words")


def nano_path(name: str = NANO) -> Path:
    """Folder of a small model, in the original layout; `from_pretrained` opens it like that of a published checkpoint.

    Args:
        name: "nano", DeepSeek-VL-Hybrid's architecture with 4 million parameters, answers questions about shapes,
            colors, counts, positions, short strings and bar charts in drawn pictures, in English and Chinese.
            "nano-vl2", DeepSeek-VL2's architecture with 4 million parameters, says where shapes are and reads lines of
            text.

    Raises:
        ValueError: there is no model of that name.
    """
    if name not in MODELS:
        raise ValueError(f"No model {name!r} comes with the package; expected {' or '.join(MODELS)}.")
    return Path(__file__).parent / MODELS[name]


def packaged(model: str | Path) -> str | None:
    """Which of the models that come with the package a name, as people pass it, or a folder is; None for others.

    A path is always a folder's, so `Path("nano")` is one that lies here.
    """
    if isinstance(model, str) and model in MODELS:
        return model
    folder = Path(model).absolute()
    return next((name for name in MODELS if folder == nano_path(name).absolute()), None)


def example_picture(name: str) -> str:
    """Path of a drawn picture that comes with the package, as a PNG file.

    Args:
        name: "shapes" (640 x 640 pixels, four colored shapes), "words" (640 x 640, three lines of text), "chart"
            (512 x 496, three bars) or "places" (224 x 224, four shapes for nano-vl2 to find).

    Raises:
        ValueError: there is no picture of that name.
    """
    if name not in PICTURES:
        raise ValueError(f"There is no example picture {name!r}; expected {', '.join(PICTURES)}.")
    return str(Path(__file__).parent / "pictures" / f"{name}.png")
