"""The small trained model that comes with the package, and pictures that it answers questions about."""

from pathlib import Path

NANO = "nano"
PICTURES = ("chart", "shapes", "words")


def nano_path() -> Path:
    """Folder of the nano model: DeepSeek-VL-Hybrid's architecture with 4 million parameters, in the original layout.

    It answers questions about shapes, colors, counts, positions, short strings and bar charts in drawn pictures, in
    English and Chinese. `from_pretrained` opens the folder like that of a published checkpoint.
    """
    return Path(__file__).parent / "checkpoint"


def is_nano(model: str | Path) -> bool:
    """Whether a model's name, as people pass it, or its folder is that of the model that comes with the package.

    A path is always a folder's, so `Path("nano")` is one that lies here.
    """
    return model == NANO or Path(model).absolute() == nano_path().absolute()


def example_picture(name: str) -> str:
    """Path of a drawn picture that comes with the package, as a PNG file.

    Args:
        name: "shapes" (640 x 640 pixels, four colored shapes), "words" (640 x 640, three lines of text) or "chart"
            (512 x 496, three bars).

    Raises:
        ValueError: there is no picture of that name.
    """
    if name not in PICTURES:
        raise ValueError(f"There is no example picture {name!r}; expected {', '.join(PICTURES)}.")
    return str(Path(__file__).parent / "pictures" / f"{name}.png")
