"""The small files of a processor in the transformers layout: what they may hold, and which of them is at fault.

transformers and tokenizers take most values as they come, and fail far from the file, in words that do not name it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoProcessor, ProcessorMixin

from ...kinds import is_number, is_switch
from .files import OF_PROCESSORS, PROCESSOR, TEMPLATE, TOKENIZER, VOCABULARY, FileFinder, in_folder, optional_json

SIDES = ("left", "right")
SWITCHES = ("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces")
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "image_token")


def open_processor(folder: Path) -> ProcessorMixin:
    """What `AutoProcessor` finds in a checkpoint's folder, which has to be a processor.

    Raises:
        ValueError: a file is damaged or holds a value of another kind than its name needs; or a file names a class that
            does not exist, where AutoProcessor gives the tokenizer alone, which would leave all pictures out.
    """
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except Exception as error:
        explain_failure(in_folder(folder), error)
        raise
    if isinstance(processor, ProcessorMixin):
        return processor
    raise ValueError(
        f"AutoProcessor finds a {type(processor).__name__} in {folder}, and no processor. Look at the processor_class "
        f"in {PROCESSOR} and {TOKENIZER}."
    )


def check_tokenizer_config(find: FileFinder) -> None:
    """Looks at tokenizer_config.json, as far as a wrong kind would be taken or would fail without naming it.

    Raises:
        ValueError: the file is no JSON object, or holds a value of another kind than its name needs.
    """
    content = optional_json(find, TOKENIZER)
    for names, fits, expected in (
        (("tokenizer_class",), lambda value: isinstance(value, str), "the name of a class"),
        (("model_max_length",), _is_length, "a positive number of tokens"),
        (("padding_side", "truncation_side"), lambda value: value in SIDES, "'left' or 'right'"),
        (SWITCHES, is_switch, "true or false"),
        (TOKENS, _is_token, "a token's text, or an object with its content"),
        (("added_tokens_decoder",), _are_tokens_by_id, "tokens by their numbers"),
    ):
        _check(content, names, fits, expected)


def _check(content: dict[str, Any], names: tuple[str, ...], fits: Callable[[Any], bool], expected: str) -> None:
    for name in names:
        if content.get(name) is not None and not fits(content[name]):
            raise ValueError(
                f"{TOKENIZER} has {name} {content[name]!r}; expected {expected}. Correct the value, or download the "
                "file again."
            )


def _is_length(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_token(value: Any) -> bool:
    text = value.get("content") if isinstance(value, dict) else value
    # JSON can hold halves of characters, of which no token consists.
    return isinstance(text, str) and text == text.encode(errors="replace").decode()


def _are_tokens_by_id(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key.isdecimal() and isinstance(token, dict) and _is_token(token) for key, token in value.items()
    )


def explain_failure(find: FileFinder, error: Exception) -> None:
    """Looks for the file because of which a processor or tokenizer could not be made; returns if none is at fault.

    Args:
        find: the checkpoint's files.
        error: what transformers or tokenizers raised.

    Raises:
        ValueError: a file is damaged, or holds a value of another kind than its name needs.
    """
    if isinstance(error, (ImportError, MemoryError, OSError)):
        return  # not a file's fault, or one that is absent or cannot be read, which they name
    there = [name for name in OF_PROCESSORS if find(name) is not None]
    for name in there:
        optional_json(find, name)
    _check_template(find)
    vocabulary = find(VOCABULARY)
    if vocabulary is not None:
        read_vocabulary(vocabulary)
    if isinstance(error, ValueError):
        return
    raise ValueError(
        f"The checkpoint's small files cannot be read ({type(error).__name__}: {error}). One of {', '.join(there)} "
        "holds a value of another kind than its name needs; download them again, or correct the value."
    ) from error


def read_vocabulary(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"{path} cannot be read as a tokenizer ({error}). Download the file again.") from error


def _check_template(find: FileFinder) -> None:
    path = find(TEMPLATE)
    if path is None:
        return
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8, or download it again.") from error
