"""Questions to click on the page: such as the model answers right."""

from pathlib import Path
from typing import Any

from ..nano.folder import NANO

PICTURES = Path(__file__).parents[3] / "examples" / "pictures"
# Of the model that comes with the package, which knows no other kinds of questions.
OF_NANO = (
    ("shapes", "How many shapes are there?"),
    ("shapes", "What color is the star?"),
    ("words", "What does the red text say?"),
)
OF_OTHERS = ("Describe the picture.", "What does the text in the picture say?", "What can you do?")


def examples_for(name: str) -> list[dict[str, Any]]:
    """Examples for a model by its name, each with `text` and `files`; nano's only where its pictures are.

    Args:
        name: as it was passed to the command.
    """
    if name != NANO:
        return [{"text": text, "files": []} for text in OF_OTHERS]
    asked = [(PICTURES / f"{picture}.png", text) for picture, text in OF_NANO]
    return [{"text": text, "files": [str(picture)]} for picture, text in asked if picture.is_file()]
