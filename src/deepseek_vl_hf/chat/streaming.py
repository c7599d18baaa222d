"""`generate` in a thread of its own, so that its tokens can be looked at, and it can be stopped, as they come."""

import atexit
import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from .sampling import with_penalty_of_answers

_DONE = object()


class _Tokens(BaseStreamer):
    """Puts each new token into a queue."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """The prompt comes first, then one token after the other."""
        if not self._is_prompt:
            self.queue.put(int(value.reshape(-1)[0]))
        self._is_prompt = False

    def end(self) -> None:
        """The thread says that itself, when the cache is at rest."""


class _Asked(StoppingCriteria):
    """Stops when an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """One answer for each sequence."""
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


@dataclass
class Generation:
    """One call of `generate`, whose tokens are the iterator's; leaving the loop stops it.

    Args:
        model: one of the package's generation models.
        cache: holds all of the prompt but a last piece.
        ids: the whole prompt.
        options: for `generate`. A `repetition_penalty` looks at the answer alone.
        stop: an event that stops it.

    Attributes:
        new_ids: all tokens that were generated; the last ones may not have been taken from the iterator.
        failure: what `generate` raised, if it did.
    """

    model: Any
    cache: Any
    ids: list[int]
    options: dict[str, Any]
    stop: threading.Event
    new_ids: list[int] = field(default_factory=list)
    failure: BaseException | None = None

    def __iter__(self) -> Generator[int, None, None]:
        """Each token as it comes.

        Raises:
            Exception: whatever `generate` raises.
        """
        tokens = _Tokens()
        thread = threading.Thread(target=self._run, args=(tokens,), name="deepseek_vl_hf.generate", daemon=True)
        # At the end of the program a thread within torch would be torn down in the middle.
        end = partial(self._end, thread)
        atexit.register(end)
        try:
            thread.start()
            while (token := tokens.queue.get()) is not _DONE:
                self.new_ids.append(token)
                yield token
        finally:
            self._end(thread)
            atexit.unregister(end)
            rest = [tokens.queue.get() for _ in range(tokens.queue.qsize())]
            self.new_ids += [token for token in rest if token is not _DONE]
        if self.failure is not None:
            raise self.failure

    def _end(self, thread: threading.Thread) -> None:
        """Stops, and waits until the cache is at rest, however often Ctrl-C is pressed."""
        self.stop.set()
        interrupt = None
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _run(self, tokens: _Tokens) -> None:
        try:
            self._generate(tokens)
        except BaseException as error:
            self.failure = error
        finally:
            tokens.queue.put(_DONE)

    def _generate(self, tokens: _Tokens) -> None:
        input_ids = torch.tensor([self.ids], device=self.model.device)
        self.model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            cache=self.cache,
            streamer=tokens,
            stopping_criteria=StoppingCriteriaList([_Asked(self.stop)]),
            use_cache=True,
            **with_penalty_of_answers(self.options, len(self.ids)),
        )


class AnswerText:
    """The text of an answer's tokens, as they come.

    Args:
        processor: its tokenizer decodes; tokens that people may type as control tokens, such as those that name places
            in a picture, stay visible.
    """

    def __init__(self, processor: Any) -> None:
        tokenizer = processor.tokenizer
        visible = {tokenizer.convert_tokens_to_ids(token) for token in processor.typed_controls}
        self._hidden = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special} - visible
        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=False)
        self._text = ""

    def add(self, token: int) -> str:
        """What a token makes visible; "" while a character is incomplete, and for blanks before the answer."""
        if token in self._hidden:
            return ""
        piece = self._stream.step(self._backend, token) or ""
        if not self._text:
            piece = piece.lstrip()
        self._text += piece
        return piece

    @property
    def whole(self) -> str:
        """The answer as it stands in the conversation, without blanks around it."""
        return self._text.strip()
