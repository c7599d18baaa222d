"""Keeping answers from repeating themselves: n-grams that occurred are not completed again.

transformers' rule of that kind builds dictionaries of the whole history in Python at each step; here a step is a few
comparisons of tensors. The windowed rule is that of DeepSeek-OCR's authors for vLLM.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from ..kinds import is_whole

LARGEST_NGRAM = 2**16


class NgramBan(LogitsProcessor):
    """Bans each token that would complete an n-gram which the sequence holds already.

    Without a window it gives what transformers' `no_repeat_ngram_size` gives: the prompt counts, and all of the
    history. With one, only the last tokens of the answer count, and tokens such as a table's cells may be exempted.

    Args:
        size: tokens of an n-gram.
        window: how many last tokens of the answer are looked at; None for prompt and answer as a whole.
        allowed: ids that are never banned.
        prompt_length: tokens of the prompt, padding included; needed with a window.

    Raises:
        ValueError: a size or window that is no whole number or leaves nothing to look at.
    """

    def __init__(
        self, size: int, window: int | None = None, allowed: Sequence[int] = (), prompt_length: int | None = None
    ) -> None:
        if not is_whole(size, 1, LARGEST_NGRAM):
            raise ValueError(f"The n-gram's size is {size!r}; expected a whole number of at least 1.")
        if window is not None and not is_whole(window, size, LARGEST_NGRAM):
            raise ValueError(
                f"The window is {window!r}; expected a whole number of at least the n-gram's size, {size}."
            )
        if window is not None and prompt_length is None:
            raise ValueError("Found a window without prompt_length; pass input_ids.shape[-1] of the prompt.")
        self.size = size
        self.window = window
        self.allowed = list(allowed)
        self.start = 0 if window is None else int(prompt_length or 0)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Gives the scores with -inf for what is banned.

        Args:
            input_ids: [batch, sequence], prompt and answer.
            scores: [batch, vocabulary], of the next token.
        """
        history = input_ids[:, self.start :]
        if history.shape[1] < self.size:
            return scores
        tail = history[:, history.shape[1] - self.size + 1 :]
        if self.window is not None:
            history = history[:, -self.window :]
        # [batch, length - size + 1, size]; a view
        ngrams = history.unfold(1, self.size, 1)
        completed = (ngrams[..., :-1] == tail[:, None]).all(-1)
        banned = torch.zeros_like(scores, dtype=torch.bool)
        rows, places = completed.nonzero(as_tuple=True)
        banned[rows, ngrams[rows, places, -1]] = True
        banned[:, self.allowed] = False
        return scores.masked_fill(banned, -torch.inf)
