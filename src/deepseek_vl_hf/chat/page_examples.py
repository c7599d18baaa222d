"""Questions to click on the page: such as the model answers right."""

from collections.abc import Sequence
from typing import Any

from ..nano.folder import NANO, NANO_VL2, example_picture, packaged

# Of the models that come with the package, which know no other kinds of questions.
OF_PACKAGED = {
    NANO: (
        ("shapes", "How many shapes are there?"),
        ("shapes", "What color is the star?"),
        ("words", "What does the red text say?"),
        ("chart", "Which bar is the tallest?"),
    ),
    NANO_VL2: (
        ("places", "Find <|ref|>the green star<|/ref|>."),
        ("places", "<|ref|>all shapes<|/ref|>"),
        ("places", "How many circles are there?"),
        ("words", "What is written at the bottom?"),
        ("chart", "Which bar is the shortest?"),
    ),
}
OF_OTHERS = ("Describe the picture.", "What does the text in the picture say?", "What can you do?")


def examples_for(name: str, suggested: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Examples for a model by its name, each with `text` and `files`.

    Args:
        name: as it was passed to the command.
        suggested: what the model's processor suggests.
    """
    model = packaged(name)
    if model is None:
        return [{"text": text, "files": []} for text in suggested or OF_OTHERS]
    return [{"text": text, "files": [example_picture(picture)]} for picture, text in OF_PACKAGED[model]]
