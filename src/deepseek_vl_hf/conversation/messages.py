"""Conversations as people write them, brought to one shape and checked.

Accepted are transformers' messages (`role`, `content` as text or a list of parts), OpenAI's `image_url` parts, and the
original's shape: `role` User or Assistant, `content` with `<image_placeholder>`, `images` as paths, `data:` URIs or
pictures. Everything here is plain Python over dicts and strings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")
# How the originals spell them, in lower case.
ROLE_NAMES = {**{role: role for role in ROLES}, "<|user|>": "user", "<|assistant|>": "assistant"}
IMAGE_KEYS = ("image", "url", "path", "base64")

Message = dict[str, Any]
Conversation = list[Message]


def is_batch(conversation: Any) -> bool:
    """Whether this is a list of conversations rather than one conversation."""
    return isinstance(conversation, (list, tuple)) and bool(conversation) and isinstance(conversation[0], (list, tuple))


def normalize_conversations(conversations: Sequence[Any], image_placeholder: str) -> list[Conversation]:
    """Checks every conversation of a batch and brings it to transformers' shape; the given objects stay as they are.

    In the result a content is a string, or a list of `text` parts and `image` parts in which no two texts are
    neighbours.

    Args:
        conversations: a batch of conversations.
        image_placeholder: what stands for an image in the original's message shape.

    Raises:
        ValueError, TypeError: with the numbers of conversation and message, what was found and what was expected.
    """
    return [
        _normalize_conversation(conversation, index, image_placeholder)
        for index, conversation in enumerate(conversations)
    ]


def _normalize_conversation(conversation: Any, index: int, image_placeholder: str) -> Conversation:
    place = f"Conversation {index}"
    if not isinstance(conversation, (list, tuple)):
        raise TypeError(f"{place} is a {type(conversation).__name__}; expected a list of messages (dicts).")
    if not conversation:
        raise ValueError(f"{place} is empty; expected at least one message with a role and a content.")
    return [
        _normalize_message(message, f"{place}, message {number}", number, image_placeholder)
        for number, message in enumerate(conversation)
    ]


def _normalize_message(message: Any, place: str, number: int, image_placeholder: str) -> Message:
    if not isinstance(message, Mapping):
        raise TypeError(f"{place} is a {type(message).__name__}; expected a dict with a role and a content.")
    # Tables fill the keys that a row does not use with None.
    message = {key: value for key, value in message.items() if value is not None}
    given = message.get("role")
    role = ROLE_NAMES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        raise ValueError(f"{place} has the role {given!r}; expected one of {', '.join(ROLES)}.")
    if role == "system" and number > 0:
        raise ValueError(f"{place} has the role 'system', which may stand only first. Move it to the front.")
    content = message.get("content")
    # The original's shape is recognised by its spelling of the roles or by its `images`.
    if "images" in message or (given[:1] in "<UAS" and isinstance(content, str)):
        content = _content_from_original(content, message.get("images"), place, image_placeholder)
    elif not isinstance(content, str):
        content = _normalize_parts(content, place)
    if role != "user" and not isinstance(content, str) and any(part["type"] == "image" for part in content):
        raise ValueError(f"{place} is of the role {given!r} and holds an image; images belong in user messages.")
    rest = {key: value for key, value in message.items() if key != "images"}
    return {**rest, "role": role, "content": content}


def _content_from_original(content: Any, images: Any, place: str, image_placeholder: str) -> str | list[dict[str, Any]]:
    if not isinstance(content, str):
        raise TypeError(f"{place} has `images` beside a content of type {type(content).__name__}; expected a string.")
    images = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    texts = content.split(image_placeholder)
    if len(texts) - 1 != len(images):
        raise ValueError(
            f"{place} has {len(texts) - 1} {image_placeholder} in its content but {len(images)} `images`. Write one "
            f"{image_placeholder} for each image, where it is to stand."
        )
    if not images:
        return content
    parts: list[dict[str, Any]] = [{"type": "text", "text": texts[0]}]
    for image, text in zip(images, texts[1:], strict=True):
        parts += [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return [part for part in parts if part.get("text") != ""]


def _normalize_parts(content: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(content, (list, tuple)):
        raise TypeError(
            f"{place} has a content of type {type(content).__name__}; expected a string or a list of parts such as "
            '{"type": "text", "text": ...} and {"type": "image", "url": ...}.'
        )
    parts: list[dict[str, Any]] = []
    for position, part in enumerate(content):
        part = _normalize_part(part, f"{place}, part {position}")
        if part["type"] == "text" and parts and parts[-1]["type"] == "text":
            # Joined here, so that text spread over two parts is still seen as one piece of typed text.
            parts[-1] = {"type": "text", "text": parts[-1]["text"] + part["text"]}
        else:
            parts.append(part)
    return parts


def _normalize_part(part: Any, place: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise TypeError(f"{place} is a {type(part).__name__}; expected a dict with a type.")
    part = {key: value for key, value in part.items() if value is not None}
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise TypeError(f"{place} has a text of type {type(part.get('text')).__name__}; expected a string.")
        return dict(part)
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if url is None:
            raise ValueError(f"{place} is an image_url without a url; expected {{'url': ...}} beside the type.")
        return {"type": "image", "url": url}
    if kind == "image":
        given = [key for key in IMAGE_KEYS if key in part]
        if len(given) > 1:
            raise ValueError(f"{place} names its image {len(given)} times ({', '.join(given)}); keep one of them.")
        return dict(part)
    raise ValueError(f"{place} has the type {kind!r}; expected 'text' or 'image'.")
