"""What clients ask for, checked before an engine sees it, which would leave out in silence what it does not know."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..chat.history import too_long
from ..conversation.messages import Conversation, image_parts, is_filled, normalize_conversations
from ..kinds import is_number, is_switch
from ..models.sampling import ALWAYS, HOTTEST, WHEN_DRAWING, Range
from ..pictures.links import fetch
from ..pictures.opening import open_images
from ..pictures.sources import link_scheme

# What engine and client agree on, and what is done here for the engine.
_UNDERSTOOD = {
    *("messages", "model", "stream", "stream_options", "n", "stop", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "seed", "frequency_penalty", "repetition_penalty", "logit_bias"),
}
# Says nothing about the answer.
_WITHOUT_EFFECT = frozenset(
    ("metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")
)
# What clients send where they ask for nothing.
_NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {}, ["text"], {"type": "text"}, "none", "auto")
MOST_CHOICES = 16
MOST_STOPS = 4  # as OpenAI's own
SEEDS = Range(-(2**63), 2**63 - MOST_CHOICES, whole=True)
# Of one request.
MOST_PICTURES = 16


class RequestError(ValueError):
    """A request that is answered with an error.

    Args:
        message: what was found, what was expected, what to do.
        status: of HTTP.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ChatRequest:
    """A request that an engine can answer.

    Attributes:
        body: for the engine: one answer, pictures as `data:` URIs, sampling in numbers.
        choices: how many answers are wanted.
        stops: texts at which an answer ends.
        stream: whether it is sent while it is written.
        include_usage: whether a stream ends with its counts in an object of their own.
    """

    body: dict[str, Any]
    choices: int
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool


class RequestReader:
    """Reads the requests for one model.

    Args:
        processor: the model's.
        context: tokens that fit into the model's context.
        draws: whether the checkpoint draws tokens where a request says nothing.
        most_pictures: that one request may hold.
    """

    def __init__(
        self,
        processor: Any,
        context: int,
        draws: bool = False,
        most_pictures: int = MOST_PICTURES,
    ) -> None:
        self._processor, self._context, self._draws = processor, context, draws
        self._most_pictures = most_pictures

    def read(self, body: Any) -> ChatRequest:
        """Checks a request, loads its pictures, and completes what the engine needs to know; takes its time.

        Raises:
            RequestError: something that is not understood, a picture that cannot be had, too long a prompt.
        """
        if not isinstance(body, Mapping):
            raise RequestError(f"The request is a JSON {type(body).__name__}; expected an object with messages.")
        _refuse_unread(body)
        wanted = ChatRequest(
            body=self._sampling(body),
            choices=int(_number(body, "n", Range(1, MOST_CHOICES, whole=True)) or 1),
            stops=_stops(body.get("stop")),
            stream=_switch(body, "stream"),
            include_usage=_switch(body.get("stream_options") or {}, "include_usage"),
        )
        if wanted.stops:
            wanted.body["stop"] = list(wanted.stops)
        conversation = self._conversation(body.get("messages"))
        wanted.body["max_tokens"] = self._room(body, self._load_pictures(conversation))
        wanted.body["messages"] = [{**each, "content": _for_engine(each["content"])} for each in conversation]
        return wanted

    def _conversation(self, messages: Any) -> Conversation:
        if not messages:
            raise RequestError(
                'The request has no messages; expected a list such as [{"role": "user", "content": ...}].'
            )
        try:
            (conversation,) = normalize_conversations([_as_ours(messages)], self._processor.image_token)
        except (TypeError, ValueError) as error:
            raise RequestError(str(error).removeprefix("Conversation 1, ")) from error
        return conversation

    def _load_pictures(self, conversation: Conversation) -> int:
        """Fetches what links lead to, and looks at every picture; returns the tokens of the whole prompt."""
        parts = list(image_parts(conversation))
        if len(parts) > self._most_pictures:
            raise RequestError(
                f"The request has {len(parts)} pictures; at most {self._most_pictures} are taken. Send fewer."
            )
        sources = [self._picture(part, f"Image {number} of {len(parts)}") for number, part in enumerate(parts)]
        try:
            opened = open_images(sources, local=False)
            sizes = [(picture.height, picture.width) for picture in opened]
            lengths = self._processor.num_tokens_of_sizes(sizes)[0] if sizes else []
            ids = self._processor.encode_conversation(conversation, lengths)
        except (TypeError, ValueError) as error:
            raise RequestError(str(error)) from error
        for part, source in zip(parts, sources, strict=True):
            part["url"] = source if isinstance(source, str) else _data_uri(source)
        return len(ids)

    def _picture(self, part: Mapping[str, Any], place: str) -> str | bytes:
        """A `data:` URI, or the bytes that a link leads to."""
        url = part.get("url")
        if not is_filled(part) or not isinstance(url, str):
            raise RequestError(
                f'{place} holds no link. Expected {{"type": "image_url", "image_url": {{"url": ...}}}} with a data: '
                "URI or an http(s) link."
            )
        scheme = link_scheme(url)
        if scheme == "data":
            return url
        if scheme not in ("http", "https"):
            raise RequestError(
                f"{place} is {url[:60]!r}, which this server does not read. Expected a data: URI or an http(s) link; "
                "send files of your own as data: URIs."
            )
        try:
            return fetch(url.strip(), private=False)
        except Exception as error:  # what networks and servers do is never a fault of this server
            reason = str(error) or type(error).__name__
            raise RequestError(f"{place}, {url[:60]!r}, cannot be fetched: {reason}.") from error

    def _sampling(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """How to choose tokens: a temperature always, because 0 is how an engine is told to take the likeliest."""
        temperature = _number(body, "temperature", Range(0, HOTTEST))
        top_p = _number(body, "top_p", WHEN_DRAWING["top_p"])
        if temperature is None and not self._draws:
            temperature = 0 if top_p is None else 1
        if temperature:
            _number(body, "temperature", WHEN_DRAWING["temperature"])
        penalty = _number(body, "repetition_penalty", ALWAYS["repetition_penalty"])
        frequency = _number(body, "frequency_penalty", Range(-2, 2))
        if frequency and penalty is not None:
            raise RequestError("Found both frequency_penalty and repetition_penalty; send one of them.")
        asked = {
            "temperature": temperature,
            "top_p": top_p,
            "seed": _number(body, "seed", SEEDS),
            "frequency_penalty": frequency or (None if penalty is None else penalty - 1),
            "logit_bias": _logit_bias(body.get("logit_bias"), len(self._processor.tokenizer)),
        }
        return {name: value for name, value in asked.items() if value is not None}

    def _room(self, body: Mapping[str, Any], prompt_tokens: int) -> int:
        """Tokens for the answer: what is asked for, at most what fits after the prompt."""
        room = self._context - prompt_tokens
        if room < 1:
            raise RequestError(too_long(f"{prompt_tokens} tokens", self._context))
        names = ("max_completion_tokens", "max_tokens")
        asked = [_number(body, name, ALWAYS["max_new_tokens"]) for name in names]
        return min([room, *(int(value) for value in asked if value is not None)])


def _as_ours(messages: Any) -> Any:
    """Messages in which OpenAI's newer name of the system's role is replaced."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return messages
    return [{**each, "role": "system"} if _is_of_developer(each) else each for each in messages]


def _is_of_developer(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "developer"


def _for_engine(content: Any) -> Any:
    """A message's content in OpenAI's shape."""
    if isinstance(content, str):
        return content
    return [
        {"type": "image_url", "image_url": {"url": part["url"]}} if part["type"] == "image" else part
        for part in content
    ]


def _data_uri(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def _refuse_unread(body: Mapping[str, Any]) -> None:
    unread = [
        name for name, value in body.items() if name not in _UNDERSTOOD | _WITHOUT_EFFECT and value not in _NOTHING
    ]
    if unread:
        raise RequestError(
            f"The request holds {', '.join(map(repr, unread))}, which this engine cannot do. Leave it out."
        )


def _number(body: Mapping[str, Any], name: str, allowed: Range) -> Any:
    value = body.get(name)
    if value is not None and not allowed.holds(value):
        raise RequestError(f"{name} is {value!r}; expected {allowed}.")
    return value


def _switch(values: Any, name: str) -> bool:
    if not isinstance(values, Mapping):
        raise RequestError(f"stream_options is {values!r}; expected an object such as {{'include_usage': true}}.")
    value = values.get(name)
    if value is not None and not is_switch(value):
        raise RequestError(f"{name} is {value!r}; expected true or false.")
    return bool(value)


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(f"stop is {stop!r}; expected a text or up to {MOST_STOPS} of them, none of them empty.")
    return tuple(stops)


def _logit_bias(bias: Any, vocabulary: int) -> dict[str, float] | None:
    if not bias:
        return None
    expected = f"an object of token ids (from 0 to {vocabulary - 1}) and numbers from -100 to 100"
    if not isinstance(bias, Mapping):
        raise RequestError(f"logit_bias is {bias!r}; expected {expected}.")
    for token, value in bias.items():
        # Python reads numbers of a few thousand digits alone.
        known = token.isascii() and token.isdigit() and len(token) < 20 and int(token) < vocabulary
        if not (known and is_number(value) and -100 <= value <= 100):
            raise RequestError(f"logit_bias holds {token!r}: {value!r}; expected {expected}.")
    return {token: float(value) for token, value in bias.items()}
