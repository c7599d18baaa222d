"""The rule that keeps a page's answer from going around in circles, with its authors' numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor

from ..models.repetition import NgramBan

# A table may repeat its cells.
ALLOWED_TOKENS = ("<td>", "</td>")


@dataclass(frozen=True)
class Repetition:
    """No sequence of `ngram` tokens occurs twice within the last `window` tokens of an answer.

    Attributes:
        ngram: tokens; 0 switches the rule off.
        window: tokens; at least `ngram`.
    """

    ngram: int
    window: int

    def processors(self, tokenizer: Any) -> list[LogitsProcessor]:
        """For `generate`."""
        return [_BanInAnswers(self, tokenizer.convert_tokens_to_ids([*ALLOWED_TOKENS]))] if self.ngram else []


# Of the authors' programs for vLLM.
OF_PICTURES, OF_PDFS = Repetition(30, 90), Repetition(20, 50)


class _BanInAnswers(LogitsProcessor):
    """`NgramBan` that finds out itself how long the prompts are.

    Whoever asks about pictures does not know: a batch pads its prompts, and is halved when memory does not suffice.
    """

    def __init__(self, rule: Repetition, allowed: Sequence[int]) -> None:
        self._rule, self._allowed = rule, allowed
        self._before = torch.empty(0)
        self._ban: NgramBan | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores, [sequences, vocabulary], with -inf for what is banned."""
        # What does not continue the tokens of the last call by one is a new batch's prompt.
        goes_on = input_ids.shape[1] == self._before.shape[-1] + 1 and torch.equal(input_ids[:, :-1], self._before)
        if self._ban is None or not goes_on:
            self._ban = NgramBan(self._rule.ngram, self._rule.window, self._allowed, prompt_length=input_ids.shape[1])
        self._before = input_ids
        return self._ban(input_ids, scores)
