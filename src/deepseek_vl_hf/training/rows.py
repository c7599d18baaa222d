"""Rows of training data, as ms-swift, LLaMA-Factory, TRL and LLaVA write them, brought to one conversation each.

row: `messages` or `conversations`, with pictures in the messages or in a column `images`
  --from and value, system, messages checked-->
  --a picture for each place: a placeholder in a text, or an image part without an image-->
conversation in transformers' shape

Whatever a row holds is read, or named in an error. Plain Python over dicts and strings; no picture is opened.
"""

from collections.abc import Mapping
from typing import Any

from ..conversation.chat_templates import IMAGE_PLACEHOLDER, VL2_IMAGE_TOKEN
from ..conversation.messages import (
    ROLE_NAMES,
    Conversation,
    image_parts,
    is_filled,
    normalize_conversations,
    with_images,
    without_lone_surrogates,
)
from .boxes import Objects, check_places, read_objects

# Columns that say where a row comes from, and nothing of the conversation.
_ORIGIN = ("id", "idx", "place", "source", "data_source", "dataset")
_READ = ("messages", "conversations", "images", "image", "system", "objects", *_ORIGIN)
# The roles of ShareGPT's `from`.
_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def conversation_of(row: Any, image_token: str) -> Conversation:
    """The conversation of a row, with a picture in each image part; the row stays as it is.

    Args:
        row: a list of messages, or a dict with such a list as `messages` or `conversations` (there `from` and `value`
            are usual) and, beside it, its pictures as `images` or `image` and a `system` prompt. Each picture takes
            the place of `<image>`, of the processor's own placeholder, or of an image part without an image, in their
            order. Where there is no such place they stand in front of the first question, as TRL and ms-swift have it.
            `objects` names things and their boxes; see `boxes`.
        image_token: the processor's own placeholder.

    Raises:
        ValueError, TypeError: no conversation, columns that nothing reads, other numbers of pictures and places, or
            no answer of the assistant.
    """
    columns = row if isinstance(row, Mapping) else {"messages": row}
    columns = {name: value for name, value in columns.items() if not _is_empty(value)}
    pictures = _pictures_of(columns)
    messages = _messages_of(columns)
    _refuse_unread(columns)
    placeholders = tuple(dict.fromkeys((image_token, IMAGE_PLACEHOLDER, VL2_IMAGE_TOKEN)))
    messages = [_with_own_placeholder(message, placeholders) for message in messages]
    (conversation,) = normalize_conversations([_with_places(messages, placeholders, bool(pictures))], image_token)
    conversation = _with_pictures(conversation, pictures, placeholders)
    _check_answer(conversation)
    objects_of(columns, conversation)
    return _with_system(conversation, columns.get("system"))


def objects_of(row: Any, conversation: Conversation) -> Objects | None:
    """What a row's column `objects` says of things and where they are; None without one.

    Args:
        row: see `conversation_of`.
        conversation: of the row.

    Raises:
        ValueError, TypeError: see `boxes.read_objects` and `boxes.check_places`.
    """
    column = row.get("objects") if isinstance(row, Mapping) else None
    if _is_empty(column):
        return None
    objects = read_objects(column, sum(1 for _ in image_parts(conversation)))
    check_places(conversation, objects)
    return objects


def _is_empty(value: Any) -> bool:
    """Whether a column says nothing of this row: tables fill what a row does not have with None or something empty."""
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def _messages_of(columns: Mapping[str, Any]) -> list[Any]:
    given = [name for name in ("messages", "conversations") if name in columns]
    if len(given) != 1:
        others = f" but {', '.join(map(repr, columns))}" if columns else ""
        found = " and ".join(given) or f"no messages{others}"
        raise ValueError(f'Found {found}; expected one list of messages, as in {{"messages": [...]}}.')
    messages = columns[given[0]]
    if not isinstance(messages, (list, tuple)):
        raise TypeError(f"Found {given[0]} of type {type(messages).__name__}; expected a list of messages (dicts).")
    return [_with_role(message, number) for number, message in enumerate(messages, 1)]


def _with_role(message: Any, number: int) -> Any:
    """ShareGPT's `from` and `value` as role and content; any other message as it is."""
    if not isinstance(message, Mapping) or not {"from", "value"} & message.keys():
        return message
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    if not _is_empty(rest.get("role")) or not _is_empty(rest.get("content")):
        raise ValueError(f"Message {number} has `from` and `value` beside role and content; keep one of the two pairs.")
    speaker = message.get("from")
    if speaker not in _SPEAKERS:
        raise ValueError(
            f"Message {number} is from {speaker!r}; expected one of {', '.join(_SPEAKERS)}. Tools are not supported."
        )
    return {**rest, "role": _SPEAKERS[speaker], "content": message.get("value")}


def _with_system(conversation: Conversation, system: Any) -> Conversation:
    if system is None:
        return conversation
    if not isinstance(system, str):
        raise TypeError(f"Found a `system` of type {type(system).__name__}; expected the text of the system prompt.")
    if conversation[0]["role"] == "system":
        raise ValueError("Found a `system` beside a system message; keep one of them.")
    return [{"role": "system", "content": without_lone_surrogates(system)}, *conversation]


def _pictures_of(columns: Mapping[str, Any]) -> list[Any]:
    given = [name for name in ("images", "image") if name in columns]
    if len(given) > 1:
        raise ValueError("Found `images` and `image`; keep one of them.")
    pictures = columns[given[0]] if given else []
    return list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]


def _refuse_unread(columns: Mapping[str, Any]) -> None:
    unread = [name for name in columns if name not in _READ]
    if unread:
        raise ValueError(
            f"Found the columns {', '.join(map(repr, unread))}, which nothing here reads; the model would learn "
            "without them. Remove them if that is meant, or write what the model is to read into the messages."
        )


def _with_own_placeholder(message: Any, placeholders: tuple[str, ...]) -> Any:
    """A message with `images` of its own, its `<image>` spelled as the processor's placeholder."""
    if not isinstance(message, Mapping) or not message.get("images") or not isinstance(message.get("content"), str):
        return message
    content = message["content"]
    for placeholder in placeholders[1:] if placeholders[0] not in content else ():
        content = content.replace(placeholder, placeholders[0])
    return {**message, "content": content}


def _with_places(messages: list[Any], placeholders: tuple[str, ...], in_parts: bool) -> list[Any]:
    """Messages with image parts for the placeholders in what users say: in strings, and if asked for in text parts.

    Text in parts is meant as it stands, as everywhere; a column of pictures says that it is not.
    """

    def with_places(message: Any) -> Any:
        if not isinstance(message, Mapping) or message.get("images") or not _is_of_user(message):
            return message
        content = message.get("content")
        if isinstance(content, str):
            return {**message, "content": _cut(content, placeholders)}
        if not (in_parts and isinstance(content, (list, tuple))):
            return message
        return {**message, "content": [piece for part in content for piece in _cut_part(part, placeholders)]}

    return [with_places(message) for message in messages]


def _is_of_user(message: Mapping[str, Any]) -> bool:
    return ROLE_NAMES.get(str(message.get("role")).lower()) == "user"


def _cut_part(part: Any, placeholders: tuple[str, ...]) -> list[Any]:
    is_text = isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
    pieces = _cut(part["text"], placeholders) if is_text else ""
    return [part] if isinstance(pieces, str) else pieces


def _cut(text: str, placeholders: tuple[str, ...]) -> str | list[dict[str, Any]]:
    """A text as parts, an image part in each place; without a place the text itself."""
    for placeholder in placeholders[1:]:
        text = text.replace(placeholder, placeholders[0])
    first, *others = text.split(placeholders[0])
    if not others:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": first}]
    for other in others:
        parts += [{"type": "image"}, {"type": "text", "text": other}]
    return [part for part in parts if part.get("text") != ""]


def _with_pictures(conversation: Conversation, pictures: list[Any], placeholders: tuple[str, ...]) -> Conversation:
    places = sum(not is_filled(part) for part in image_parts(conversation))
    if pictures and not any(True for _ in image_parts(conversation)):
        conversation, places = _with_places_in_front(conversation, len(pictures)), len(pictures)
    if places != len(pictures):
        raise ValueError(
            f"Found {places} places for pictures in what the user says ({' or '.join(placeholders)}, or an image "
            f"part without an image) and {len(pictures)} pictures; expected as many of each. (Text that should contain "
            'such a string literally goes into a part: {"type": "text", "text": ...}.)'
        )
    return with_images(conversation, pictures, "The row")


def _with_places_in_front(conversation: Conversation, count: int) -> Conversation:
    """The first question with image parts in front."""
    first = next((number for number, message in enumerate(conversation) if message["role"] == "user"), None)
    if first is None:
        raise ValueError(f"Found {count} pictures and no user's message to which they could belong.")
    content = conversation[first]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    asked = {**conversation[first], "content": [{"type": "image"} for _ in range(count)] + list(parts)}
    return [*conversation[:first], asked, *conversation[first + 1 :]]


def _check_answer(conversation: Conversation) -> None:
    if not any(message["role"] == "assistant" and _says_something(message) for message in conversation):
        raise ValueError(
            "There is no assistant answer, and so nothing to learn. End the conversation with "
            '{"role": "assistant", "content": ...}.'
        )


def _says_something(message: dict[str, Any]) -> bool:
    content = message["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return bool(text.strip())
