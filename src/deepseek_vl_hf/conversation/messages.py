"""Conversations as people write them, brought to one shape and checked.

Accepted are transformers' messages (`role`, `content` as text or a list of parts), OpenAI's `image_url` parts,
Anthropic's `source`, and the original's shape: `role` User or Assistant, `content` with `<image_placeholder>`, `images`
as paths, `data:` URIs or pictures. Whatever else a message holds is refused, so that nothing is left out in silence.
Everything here is plain Python over dicts and strings; errors count conversations, messages and parts from one.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")
# How the originals spell them, in lower case.
ROLE_NAMES = {**{role: role for role in ROLES}, "<|user|>": "user", "<|assistant|>": "assistant"}
# Where an image part keeps its image once it is normalized.
IMAGE_KEYS = ("image", "url", "path", "base64")
# The same as people write them.
_WAYS_TO_NAME_AN_IMAGE = (*IMAGE_KEYS, "image_url", "source")
_MESSAGE_KEYS = ("role", "content", "images")

Message = dict[str, Any]
Conversation = list[Message]


def is_batch(conversation: Any) -> bool:
    """Whether this is a list of conversations rather than one conversation."""
    return isinstance(conversation, (list, tuple)) and bool(conversation) and isinstance(conversation[0], (list, tuple))


def without_lone_surrogates(text: str) -> str:
    """The text with halves of a surrogate pair joined where both are there, and replaced by U+FFFD where one is.

    Broken emoji in JSON come as such halves. No tokenizer takes them, because UTF-8 has no bytes for them.
    """
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def normalize_conversations(
    conversations: Sequence[Any], image_placeholder: str, extra_keys: Collection[str] = ()
) -> list[Conversation]:
    """Checks every conversation of a batch and brings it to transformers' shape; the given objects stay as they are.

    In the result a content is a string, or a list of `text` parts and `image` parts in which no two texts are
    neighbors. An assistant's turn without content is an empty one.

    Args:
        conversations: a batch of conversations.
        image_placeholder: what stands for an image in the original's message shape.
        extra_keys: what a message may hold beside role, content and `images`, because the chat template reads it.

    Raises:
        ValueError, TypeError: with the numbers of conversation and message, what was found and what was expected.
    """
    return [
        [
            _normalize_message(message, place, is_first, image_placeholder, extra_keys)
            for message, place, is_first in _messages_of(conversation, f"Conversation {number}")
        ]
        for number, conversation in enumerate(conversations, 1)
    ]


def _messages_of(conversation: Any, place: str) -> list[tuple[Any, str, bool]]:
    """Each message, how errors name it, and whether it is the first."""
    if not isinstance(conversation, (list, tuple)):
        raise TypeError(f"{place} is a {type(conversation).__name__}; expected a list of messages (dicts).")
    if not conversation:
        raise ValueError(f"{place} is empty; expected at least one message with a role and a content.")
    return [(message, f"{place}, message {number}", number == 1) for number, message in enumerate(conversation, 1)]


def _normalize_message(
    message: Any, place: str, is_first: bool, image_placeholder: str, extra_keys: Collection[str]
) -> Message:
    if not isinstance(message, Mapping):
        raise TypeError(f"{place} is a {type(message).__name__}; expected a dict with a role and a content.")
    message = {key: _clean(value) for key, value in message.items() if value is not None}
    given = message.get("role")
    role = ROLE_NAMES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        raise ValueError(f"{place} has the role {given!r}; expected one of {', '.join(ROLES)}.")
    if role == "system" and not is_first:
        raise ValueError(f"{place} has the role 'system', which may stand only first. Move it to the front.")
    _refuse_unread(message, (*_MESSAGE_KEYS, *extra_keys), place)
    if message.get("images") == [] and not isinstance(message.get("content"), str):
        del message["images"]  # an empty column beside parts that hold the images themselves
    # What calls tools has no content; a call itself is refused above.
    content = message.get("content", "" if role == "assistant" and "images" not in message else None)
    # The original's shape is recognized by its spelling of the roles or by its `images`.
    if "images" in message or (given[:1] in "<UAS" and isinstance(content, str)):
        content = _content_from_original(content, message.get("images"), place, image_placeholder)
    elif not isinstance(content, str):
        content = _normalize_parts(content, place)
    if role != "user" and not isinstance(content, str) and any(part["type"] == "image" for part in content):
        raise ValueError(f"{place} is of the role {given!r} and holds an image; images belong in user messages.")
    rest = {key: value for key, value in message.items() if key != "images"}
    return {**rest, "role": role, "content": content}


def with_images(conversation: Conversation, images: Sequence[Any], place: str) -> Conversation:
    """Puts images into the image parts that hold none, in their order; the given conversation stays as it is.

    Raises:
        ValueError: other numbers of images and of such parts.
    """
    empty = [part for part in image_parts(conversation) if not is_filled(part)]
    if len(empty) != len(images):
        raise ValueError(
            f"{place} has {len(empty)} image parts without an image, but {len(images)} images were passed beside the "
            'messages. Write one {"type": "image"} for each image, where it is to stand.'
        )
    given = iter(images)

    def filled(part: dict[str, Any]) -> dict[str, Any]:
        is_place = part["type"] == "image" and not is_filled(part)
        return {"type": "image", "image": next(given)} if is_place else part

    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [filled(part) for part in message["content"]]}
        for message in conversation
    ]


def image_parts(conversation: Conversation) -> Iterator[dict[str, Any]]:
    """The image parts of a normalized conversation, in order."""
    for message in conversation:
        if not isinstance(message["content"], str):
            yield from (part for part in message["content"] if part["type"] == "image")


def is_filled(part: Mapping[str, Any]) -> bool:
    """Whether a normalized image part holds its image."""
    return any(key in part for key in IMAGE_KEYS)


def _clean(value: Any) -> Any:
    return without_lone_surrogates(value) if isinstance(value, str) else value


def _refuse_unread(message: Mapping[str, Any], read: Collection[str], place: str) -> None:
    """Raises ValueError for what stands in a message and would not come into the prompt."""
    unread = [key for key, value in message.items() if key not in read and not _is_empty(value)]
    if unread:
        raise ValueError(
            f"{place} holds {', '.join(map(repr, unread))}, which the chat template does not write into the prompt. "
            "Leave it out, or write what the model is to read into the content."
        )


def _is_empty(value: Any) -> bool:
    """Whether a value says nothing: tables and tools fill keys that they do not use with None or something empty."""
    return value is None or value is False or (isinstance(value, (str, list, tuple, Mapping)) and not value)


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
    for number, part in enumerate(content, 1):
        part = _normalize_part(part, f"{place}, part {number}")
        if part["type"] == "text" and parts and parts[-1]["type"] == "text":
            # Joined here, so that text spread over two parts is still seen as one piece of typed text.
            parts[-1] = {"type": "text", "text": parts[-1]["text"] + part["text"]}
        else:
            parts.append(part)
    return [{**part, "text": without_lone_surrogates(part["text"])} if "text" in part else part for part in parts]


def _normalize_part(part: Any, place: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise TypeError(f"{place} is a {type(part).__name__}; expected a dict with a type.")
    # Tables fill the keys that a row does not use with None.
    part = {key: value for key, value in part.items() if value is not None}
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise TypeError(f"{place} has a text of type {type(part.get('text')).__name__}; expected a string.")
        _refuse_unknown_keys(part, ("type", "text"), place)
        return {"type": "text", "text": part["text"]}
    if kind in ("image", "image_url"):
        return _normalize_image(part, place)
    raise ValueError(f"{place} has the type {kind!r}; expected 'text' or 'image'.")


def _normalize_image(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    """An image part with its image, if it has one yet, under one of IMAGE_KEYS."""
    _refuse_unknown_keys(part, ("type", *_WAYS_TO_NAME_AN_IMAGE), place)
    given = [key for key in _WAYS_TO_NAME_AN_IMAGE if key in part]
    if len(given) > 1:
        raise ValueError(f"{place} names its image {len(given)} times ({', '.join(given)}); keep one of them.")
    if not given and part["type"] == "image_url":
        raise ValueError(f"{place} is an image_url without a url; expected {{'url': ...}} beside the type.")
    if not given:
        return {"type": "image"}
    (key,) = given
    if key == "image_url":
        return {"type": "image", "url": _url_of_openai(part[key], place)}
    if key == "source" and isinstance(part[key], Mapping):
        return {"type": "image", "url": _url_of_anthropic(part[key], place)}
    return {"type": "image", "image" if key == "source" else key: part[key]}


def _url_of_openai(image_url: Any, place: str) -> Any:
    """Of {"url": ...} or the URL itself. `detail`, a wish for OpenAI's own models, has no counterpart here."""
    if not isinstance(image_url, Mapping):
        return image_url
    _refuse_unknown_keys(image_url, ("url", "detail"), f"{place}, image_url")
    if image_url.get("url") is None:
        raise ValueError(f"{place} is an image_url without a url; expected {{'url': ...}} beside the type.")
    return image_url["url"]


def _url_of_anthropic(source: Mapping[str, Any], place: str) -> str:
    """Of {"type": "base64", "media_type": ..., "data": ...} or {"type": "url", "url": ...}."""
    place = f"{place}, source"
    kind = source.get("type")
    if kind == "base64" and isinstance(source.get("data"), str):
        _refuse_unknown_keys(source, ("type", "media_type", "data"), place)
        return f"data:{source.get('media_type') or 'image/png'};base64,{source['data']}"
    if kind == "url" and isinstance(source.get("url"), str):
        _refuse_unknown_keys(source, ("type", "url"), place)
        return str(source["url"])
    raise ValueError(
        f"{place} has the type {kind!r} and the keys {', '.join(map(repr, source))}; expected "
        '{"type": "base64", "media_type": "image/png", "data": ...} or {"type": "url", "url": ...}.'
    )


def _refuse_unknown_keys(part: Mapping[str, Any], known: Collection[str], place: str) -> None:
    unknown = [key for key, value in part.items() if key not in known and value is not None]
    if unknown:
        raise ValueError(
            f"{place} holds {', '.join(map(repr, unknown))}, which nothing reads; expected "
            f"{', '.join(map(repr, known))}. Leave it out, or use one of these keys."
        )
