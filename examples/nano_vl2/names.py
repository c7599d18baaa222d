"""Which words say what is meant, asked of the first layer's attention: a third task for answering.

To look at the green star, a later layer has to have "green" and "star" in one place. So heads of the first layer are
told to look at them from where the star is needed: one at the word for its color, one at the word for its shape, or at
a character that is asked for. Where something is named by a box, there is a head for each of its edges.

The first layer knows of the token that looks nothing but which one it is. What is asked of it here is therefore the
same for a token wherever it stands: a word for a shape looks at itself and at the word for a color in front of it.
"""

from collections.abc import Iterator, Sequence

from deepseek_vl_hf.conversation.chat_templates import VL2_IMAGE_TOKEN
from nano.cells import THINGS
from nano.questions import Turn
from nano.scenes import COLORS, SHAPES

from .clues import DET, REF, REF_END
from .questions import plural

COLOR_WORDS = frozenset(COLORS)
SHAPE_WORDS = frozenset([*SHAPES, *map(plural, SHAPES)])
EDGE_HEADS = (0, 1, 2, 3)
COLOR_HEAD, SHAPE_HEAD, PICTURE_HEAD = 0, 1, 2
UNNAMED = ("caption", "read_all", "table", "in_context")  # kinds of questions that name nothing
BY_LABEL = ("character", "chart")  # those that may spell what is meant
EXTREMES = frozenset({"tallest", "highest", "shortest", "lowest"})
SPACE = "Ġ"  # as the tokenizer writes it


def names(
    tokens: Sequence[str], question: int, answer: int, turn: Turn, askers: Sequence[int]
) -> Iterator[tuple[int, int, list[int]]]:
    """Which words the heads of a turn's tokens look at.

    Args:
        tokens: as the tokenizer writes them.
        question: where the turn's question begins.
        answer: where its answer begins.
        turn: what is asked.
        askers: tokens from the question on that are to know what is meant.

    Returns:
        Places of a token, a head, and places of words; the first token of all where the name has no such word.
    """
    if turn.kind in UNNAMED or not turn.question.isascii():
        return
    if turn.kind == "region":
        first = next(number for number in range(question, answer) if tokens[number] == DET) + 2
        yield from ((answer - 1, head, [first + edge]) for edge, head in enumerate(EDGE_HEADS))
        return
    pictures = [number for number in range(question, answer) if tokens[number] == VL2_IMAGE_TOKEN]
    numbers = picture_numbers(tokens, max([question, *pictures]), answer)  # not those in front of the pictures
    for asker in askers:
        if turn.kind == "several":
            yield asker, PICTURE_HEAD, numbers or [0]
        named = _named(tokens, question, answer, turn, asker)
        words = {number: tokens[number].removeprefix(SPACE) for number in named}
        yield asker, COLOR_HEAD, [number for number, word in words.items() if word in COLOR_WORDS] or [0]
        if asker < answer or not _reads(turn):
            yield asker, SHAPE_HEAD, [number for number, word in words.items() if _says_what(word, turn)] or [0]


def _says_what(word: str, turn: Turn) -> bool:
    spelled = turn.kind in BY_LABEL and len(word) == 1 and word in THINGS
    return spelled or word in SHAPE_WORDS or word in EXTREMES


def _reads(turn: Turn) -> bool:
    """Whether the answer is what a string says."""
    return turn.about[-1:] == (turn.answer,)


def picture_numbers(tokens: Sequence[str], begin: int, end: int) -> list[int]:
    """Where the numbers of `image_1`, `image_2` stand."""
    return [number for number in range(begin + 1, end) if tokens[number - 1] == "_" and tokens[number].isdigit()]


def last_words(tokens: Sequence[str], begin: int, end: int) -> list[int]:
    """Where words for a shape stand, with which a name ends."""
    return [number for number in range(begin, end) if tokens[number].removeprefix(SPACE) in SHAPE_WORDS]


def _named(tokens: Sequence[str], question: int, answer: int, turn: Turn, asker: int) -> range:
    """Where the name is that an asker goes by: the one in the answer before it, else the question up to it."""
    if turn.kind == "relation":
        begin = next((n + 1 for n in range(asker - 1, question, -1) if tokens[n] == f"{SPACE}the"), question)
        return range(begin, asker + 1)
    if turn.kind == "describe" and asker >= answer:
        finished = last_words(tokens, answer, asker + 1)[-1]
        return range(next((n for n in range(finished, answer - 1, -1) if tokens[n] == ","), answer), finished + 1)
    begin = next((number for number in range(asker, answer - 1, -1) if tokens[number] == REF), question)
    end = next((number for number in range(begin, asker) if tokens[number] == REF_END), asker)
    return range(begin, (end if begin >= answer else min(asker, answer - 1)) + 1)
