"""A conversation as Markdown, with its pictures beside it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from .history import Turn


def save_markdown(turns: Sequence[Turn], path: str | Path) -> Path:
    """Writes a conversation to a Markdown file, and its pictures as PNG into a folder beside it.

    Args:
        turns: the conversation.
        path: the file; the folder has its name with `-pictures` after it.

    Returns:
        The file.

    Raises:
        FileExistsError: the file or the folder exists.
        FileNotFoundError: there is no folder for the file.
    """
    path = Path(path)
    pictures = path.with_name(f"{path.stem}-pictures")
    for existing in (path, pictures):
        if existing.exists():
            raise FileExistsError(f"{existing} exists. Name another file.")
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder. Name a file in one that exists.")
    number = 0
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.resolve().parent) as scratch:
        folder = Path(scratch) / "pictures"
        folder.mkdir()
        parts = []
        for turn in turns:
            question = turn.texts[0]
            for picture, text in zip(turn.pictures, turn.texts[1:], strict=True):
                number += 1
                picture.save(folder / f"{number}.png")
                question += f"\n\n![Picture {number}](<{pictures.name}/{number}.png>)\n\n{text}"
            parts.append(f"**Question:** {question.strip()}\n\n**Answer:** {turn.answer}\n")
        with path.open("x", encoding="utf-8") as file:  # fails if something was put there meanwhile
            try:
                file.write("\n".join(parts))
                file.flush()
                if number:
                    folder.rename(pictures)
            except BaseException:
                path.unlink()
                raise
    return path
