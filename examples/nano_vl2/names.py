"""Which words say what is meant, asked of the first layer's attention: a third task for answering.

To look at the green star, a later layer has to have "green" and "star" in one place. So heads of the first layer are
told to look at them from where the star is needed: one at the word for its color, one at the word for its shape. Where
something is named by a box, there is a head for each of its edges.
"""

from collections.abc import Iterator, Sequence

from nano.questions import Turn
from nano.scenes import COLORS, SHAPES

from .clues import DET, REF, REF_END
from .questions import NOTHING, plural

COLOR_WORDS = frozenset(COLORS)
SHAPE_WORDS = frozenset([*SHAPES, *map(plural, SHAPES)])
COLOR_HEAD, SHAPE_HEAD, EDGE_HEADS = 0, 1, (0, 1, 2, 3)
SPACE = "Ġ"  # as the tokenizer writes it


def names(
    tokens: Sequence[str], question: int, answer: int, turn: Turn, boxed: Sequence[int]
) -> Iterator[tuple[int, int, list[int]]]:
    """Which words the heads of a turn's tokens look at.

    Args:
        tokens: as the tokenizer writes them.
        question: where the turn's question begins.
        answer: where its answer begins.
        turn: what is asked.
        boxed: tokens from the question on that are to know a box.

    Returns:
        Places of a token, a head, and places of words; the first token of all where the name has no such word.
    """
    several = len(turn.about) > 1 and turn.kind != "count"
    if several or turn.kind == "caption" or not turn.question.isascii():
        return
    if turn.kind == "region":
        first = next(number for number in range(question, answer) if tokens[number] == DET) + 2
        yield from ((answer - 1, head, [first + edge]) for edge, head in enumerate(EDGE_HEADS))
        return
    askers = [*boxed]
    if turn.about == (NOTHING,):
        end = max(number for number in range(question, answer) if tokens[number] == REF_END)
        askers += [end - 1, end, answer - 1]
    elif turn.about:
        askers.append(answer - 1)
    for asker in askers:
        for head, words in ((COLOR_HEAD, COLOR_WORDS), (SHAPE_HEAD, SHAPE_WORDS)):
            known = [n for n in _named(tokens, question, answer, asker) if tokens[n].removeprefix(SPACE) in words]
            yield asker, head, known or [0]


def _named(tokens: Sequence[str], question: int, answer: int, asker: int) -> range:
    """Where the name is that an asker goes by: the one in the answer before it, else the question up to it."""
    begin = next((number for number in range(asker, answer - 1, -1) if tokens[number] == REF), question)
    end = next((number for number in range(begin, asker) if tokens[number] == REF_END), asker)
    return range(begin, (end if begin >= answer else asker) + 1)
