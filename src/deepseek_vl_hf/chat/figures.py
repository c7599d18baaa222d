"""How an answer came about, in numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """How an answer came about.

    Attributes:
        prompt_tokens: the whole conversation's.
        kept_tokens: how many of them were in the cache already.
        new_tokens: the answer's.
        seconds_to_first_token: from the question on, pictures and prompt included.
        seconds: of the whole answer.
        dropped_turns: how many of the oldest turns had to be left out to make room.
        ended: "eos", "length" or "stopped".
    """

    prompt_tokens: int
    kept_tokens: int
    new_tokens: int
    seconds_to_first_token: float
    seconds: float
    dropped_turns: int
    ended: str

    @property
    def tokens_per_second(self) -> float:
        """Of the answer after its first token; 0 if there is no second one, and little to go by if no third."""
        rest = self.seconds - self.seconds_to_first_token
        return (self.new_tokens - 1) / rest if self.new_tokens > 1 and rest > 0 else 0.0


@dataclass(frozen=True)
class Beginning:
    """What is known of an answer before it begins: when it was asked for, tokens in the cache, turns left out."""

    time: float
    kept: int
    dropped: int
