"""A conversation in a zip file, from which it goes on: `conversation.json`, and its pictures as PNG.

Nothing in such a file is run when it is opened. The key/value cache is not in it: texts and pictures are read again
when the next question is asked.
"""

import io
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .history import Turn, lengths_of

FORMAT, VERSION = "deepseek_vl_hf conversation", 1
CONVERSATION = "conversation.json"
LARGEST_JSON = 64 * 2**20  # bytes
MOST_PICTURES = 10_000  # no context holds more
# Values of the final norm's weight that tell models of the same sizes apart, and how far they may be from each other:
# bfloat16, the coarsest type of numbers, rounds by 0.4 %.
FIRST_VALUES, TOLERANCE = 16, 0.01


@dataclass(frozen=True)
class Conversation:
    """What a file holds.

    Attributes:
        turns: with their pictures, which are not encoded yet.
        system: as `Chat` takes it.
        tiling: as `Chat` takes it.
    """

    turns: list[Turn]
    system: str | None
    tiling: str | bool | None


def save_archive(path: Path, model: Any, conversation: Conversation, overwrite: bool = False) -> None:
    """Writes a conversation to a file, which is complete or absent.

    Args:
        path: the file.
        model: of whom the conversation is.
        conversation: what is saved.
        overwrite: whether a file that is there is replaced.

    Raises:
        FileExistsError: the file exists.
        FileNotFoundError: there is no folder for it.
    """
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder. Name a file in one that exists.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path} exists. Name another file, or pass overwrite=True to replace a file.")
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.resolve().parent) as scratch:
        written = Path(scratch) / "conversation.zip"
        _write(written, model, conversation)
        if overwrite:
            written.replace(path)
            return
        path.open("xb").close()  # fails if something was put there meanwhile
        try:
            written.replace(path)
        except BaseException:
            path.unlink()
            raise


def _write(path: Path, model: Any, conversation: Conversation) -> None:
    number = 0
    turns = []
    with zipfile.ZipFile(path, "w") as file:
        for turn in conversation.turns:
            names = []
            for picture in turn.pictures:
                number += 1
                names.append(f"pictures/{number}.png")
                data = io.BytesIO()
                picture.save(data, "PNG")
                file.writestr(names[-1], data.getvalue())
            turns.append(
                {
                    "texts": turn.texts,
                    "pictures": names,
                    "tokens": turn.lengths,
                    "pictures_up_to_here": turn.count,
                    "answer": turn.answer,
                }
            )
        content = {
            "format": FORMAT,
            "version": VERSION,
            "model": identity_of(model),
            "system": conversation.system,
            "tiling": conversation.tiling,
            "turns": turns,
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        file.writestr(CONVERSATION, text.encode("utf-8", "surrogatepass"), zipfile.ZIP_DEFLATED)
    with path.open("rb+") as written:
        os.fsync(written.fileno())


def identity_of(model: Any) -> dict[str, Any]:
    """What tells a model from others, whatever its type of numbers and the layout of its files."""
    config = model.config
    text = config.get_text_config()
    weight = model.base_model.language_model.norm.weight
    # Of a weight that lies elsewhere (offloaded) nothing is known here.
    first = [] if weight.is_meta else weight.detach().flatten()[:FIRST_VALUES].float().tolist()
    sizes = {"vocabulary": text.vocab_size, "width": text.hidden_size, "layers": text.num_hidden_layers}
    name = Path(str(config.name_or_path)).name
    return {"type": config.model_type, **sizes, "name": name, "first_values": first}


def load_archive(path: Path, model: Any, processor: Any) -> Conversation:
    """Reads what `save_archive` wrote, for the same model.

    Args:
        path: the file.
        model: has to be the one that the conversation is of; adapters are not told apart.
        processor: the model's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no saved conversation, is damaged, or is of another model.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}. Expected a file that chat.save wrote.")
    try:
        with zipfile.ZipFile(path) as file:
            content = json.loads(_member(file, CONVERSATION).decode("utf-8", "surrogatepass"))
            _check_head(path, content, model)
            turns = [_turn(file, found) for found in content["turns"]]
            conversation = Conversation(turns, content["system"], content["tiling"])
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    # Whatever zipfile, json and Pillow come up with: KeyError for a missing member, BadZipFile for a wrong checksum ...
    except Exception as error:
        raise ValueError(
            f"{path} is damaged, or no conversation that chat.save wrote: {type(error).__name__}: {error}"
        ) from error
    _check_values(path, conversation)
    _check_lengths(path, conversation, processor)
    return conversation


class _RefusedError(Exception):
    """A file that is in order, but not for this model or package."""


def _member(file: zipfile.ZipFile, name: str) -> bytes:
    """A part of the file, which is not larger unpacked than expected."""
    size = file.getinfo(name).file_size
    most = LARGEST_JSON if name == CONVERSATION else file.getinfo(name).compress_size
    if size > most:
        raise ValueError(f"{name} has {size} bytes; expected at most {most}")
    return file.read(name)


def _check_head(path: Path, content: Any, model: Any) -> None:
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']!r}; expected {FORMAT!r}")
    if content["version"] != VERSION:
        raise _RefusedError(
            f"{path} has version {content['version']!r} of the format; this package reads {VERSION}. Update it."
        )
    saved, here = content["model"], identity_of(model)
    sizes = [name for name in here if name not in ("name", "first_values")]
    different = [f"{name} {saved[name]!r} instead of {here[name]!r}" for name in sizes if saved[name] != here[name]]
    pairs = list(zip(saved["first_values"], here["first_values"], strict=False))
    if not different and any(abs(one - other) > TOLERANCE * max(abs(one), abs(other)) for one, other in pairs):
        different = ["other weights"]
    if different:
        raise _RefusedError(
            f"{path} is a conversation with another model, {saved['name']!r} ({', '.join(different)}); this one is "
            f"{here['name']!r}. Load it into a chat with the model that it was saved from."
        )


def _turn(file: zipfile.ZipFile, found: dict[str, Any]) -> Turn:
    pictures = [_picture(_member(file, name)) for name in found["pictures"]]
    return Turn(found["texts"], pictures, found["tokens"], count=found["pictures_up_to_here"], answer=found["answer"])


def _picture(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        if picture.mode != "RGB":
            raise ValueError(f"a picture has the mode {picture.mode}; expected RGB")
        picture.load()
        return picture.copy()


def _check_values(path: Path, conversation: Conversation) -> None:
    """Raises ValueError where something has another type than it had when it was saved."""
    fine = isinstance(conversation.system, (str, type(None))) and conversation.tiling in (None, True, False, "auto")
    for turn in conversation.turns:
        texts = isinstance(turn.texts, list) and all(isinstance(text, str) for text in turn.texts)
        fine = fine and texts and len(turn.texts) == len(turn.pictures) + 1 and isinstance(turn.answer, str)
        fine = fine and isinstance(turn.count, int) and len(turn.pictures) <= turn.count <= MOST_PICTURES
    if not fine:
        raise ValueError(f"{path} is damaged: its texts, pictures and answers do not go together.")


def _check_lengths(path: Path, conversation: Conversation, processor: Any) -> None:
    """Raises ValueError where the processor makes another number of tokens of a picture."""
    for number, turn in enumerate(conversation.turns):
        lengths = lengths_of(processor, turn.pictures, turn.count, conversation.tiling)
        if lengths != turn.lengths:
            raise ValueError(
                f"{path}: the pictures of turn {number + 1} were {turn.lengths} tokens and would now be {lengths}. The "
                "file is damaged, or the processor's settings or the chat's tiling were changed."
            )
