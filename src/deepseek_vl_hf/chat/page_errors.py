"""What the page says where there is no answer: in a visitor's words. What a visitor cannot change is logged."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging

from .history import MessageTooLongError
from .limits import MOST_QUESTIONS

logger = logging.get_logger(__name__)

TOO_MANY_QUESTIONS = f"At most {MOST_QUESTIONS} questions at a time, please. Wait for an answer, then ask again."
STOPPED_EARLY = "Stopped before the answer began; the question is not part of the conversation."
OUT_OF_MEMORY = (
    "The server has too little memory for this conversation. Ask with fewer or smaller pictures, or begin a new "
    "conversation."
)
FAILED = (
    "Something went wrong on the server, and the answer could not be finished. Try again, or begin a new conversation; "
    "if that does not help, tell whoever runs this page. The reason is in the server's log."
)


def reason_of(error: Exception) -> str:
    """Why there is no answer. What the visitor cannot change is logged with its traceback.

    Args:
        error: what `Chat.stream` raised.
    """
    if isinstance(error, MessageTooLongError):
        return str(error)
    logger.error("A question on the page was not answered.", exc_info=error)
    lacks_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
    return OUT_OF_MEMORY if lacks_memory else FAILED


def of_broken(pictures: Sequence[Path]) -> str:
    """What is said of files that are no pictures: their names, not where they lie on the server."""
    names = ", ".join(dict.fromkeys(picture.name for picture in pictures))
    return (
        f"{names} could not be read as a picture, or is too large, and was taken out of the message. Add a complete "
        "PNG, JPEG or WebP file, or ask without it."
    )
