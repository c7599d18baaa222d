"""Strings to read: real words, invented words, numbers and codes, in capitals and digits."""

import random
from pathlib import Path

from .splits import belongs_to

CONSONANTS = "BCDFGHJKLMNPRSTVWXZ"
VOWELS = "AEIOUY"
DIGITS = "0123456789"
# Codes leave out the letters that look like digits, as number plates do.
CODE_CHARACTERS = "ABCDEFGHJKLMNPRSTUVWXYZ23456789"

WORDS = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split()


def random_string(rng: random.Random, split: str, longest: int = 5) -> str:
    """A string of up to `longest` characters that belongs to the split; held-out ones have at least 3."""
    shortest = min(3 if split == "held-out" else 2, longest)
    while True:
        text = rng.choice((_word, _invented_word, _number, _code))(rng, rng.randint(shortest, longest))
        if shortest <= len(text) <= longest and belongs_to(text, split):
            return text


def _word(rng: random.Random, length: int) -> str:
    return rng.choice(WORDS)


def _invented_word(rng: random.Random, length: int) -> str:
    letters = (CONSONANTS, VOWELS) if rng.random() < 0.7 else (VOWELS, CONSONANTS)
    return "".join(rng.choice(letters[position % 2]) for position in range(length))


def _number(rng: random.Random, length: int) -> str:
    return rng.choice(DIGITS[1:]) + "".join(rng.choice(DIGITS) for _ in range(length - 1))


def _code(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(CODE_CHARACTERS) for _ in range(length))
