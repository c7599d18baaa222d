"""Which words say what is meant, asked of the first layer's attention: a third task for answering.

To look at the green star, a later layer has to have "green" and "star" in one place. So heads of the first layer are
told to look at them from where the star is needed: one at the word for its color, one at the word for its shape, or at
a character that is asked for. Where something is named by a box, there is a head for each of its edges.

The first layer knows of the token that looks nothing but which one it is. What is asked of it here is therefore the
same for a token wherever it stands: a word for a shape looks at itself and at the word for a color in front of it. A
Chinese word is several tokens, of which any will do.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from tokenizers.pre_tokenizers import ByteLevel

from deepseek_vl_hf.conversation.chat_templates import VL2_IMAGE_TOKEN
from nano.cells import THINGS
from nano.questions import CHINESE, Turn
from nano.scenes import COLORS, SHAPES

from .clues import DET, REF, REF_END
from .questions import SEPARATORS, plural

COLOR_WORDS = frozenset(COLORS)
SHAPE_WORDS = frozenset([*SHAPES, *map(plural, SHAPES)])
EDGE_HEADS = (0, 1, 2, 3)
COLOR_HEAD, SHAPE_HEAD, PICTURE_HEAD = 0, 1, 2
UNNAMED = ("caption", "read_all", "table", "in_context")  # kinds of questions that name nothing
BY_LABEL = ("character", "chart")  # those that may spell what is meant
EXTREMES = frozenset({"tallest", "highest", "shortest", "lowest"})
SPACE = "Ġ"  # as the tokenizer writes it
_BYTES = ByteLevel(add_prefix_space=False, use_regex=False)


def _in_bytes(words: Iterable[str]) -> tuple[str, ...]:
    """Words as the tokenizer writes them."""
    return tuple(_BYTES.pre_tokenize_str(word)[0][0] for word in words)


CHINESE_SHAPES = _in_bytes(CHINESE[shape] for shape in SHAPES)
# All end with the same character, which may be a token of its own and says nothing.
TELLING_COLORS, TELLING_SHAPES = (_in_bytes(CHINESE[word][:-1] for word in words) for words in (COLORS, SHAPES))
CHINESE_EXTREMES = _in_bytes(("最高", "最低"))
COMMAS = _in_bytes(mark.strip() for mark in SEPARATORS)


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
    if turn.kind in UNNAMED:
        return
    if turn.kind == "region":
        first = next(number for number in range(question, answer) if tokens[number] == DET) + 2
        yield from ((answer - 1, head, [first + edge]) for edge, head in enumerate(EDGE_HEADS))
        return
    pictures = [number for number in range(question, answer) if tokens[number] == VL2_IMAGE_TOKEN]
    numbers = picture_numbers(tokens, max([question, *pictures]), answer)  # not those in front of the pictures
    for asker in askers:
        if turn.kind == "describe" and asker >= answer:
            break  # what is named there is not what is meant next
        if turn.kind == "several":
            yield asker, PICTURE_HEAD, numbers or [0]
        named = _named(tokens, question, answer, turn, asker)
        yield asker, COLOR_HEAD, _colors(tokens, named) or [0]
        if asker < answer or not _reads(turn):
            yield asker, SHAPE_HEAD, _what(tokens, named, turn) or [0]


def _colors(tokens: Sequence[str], named: range) -> list[int]:
    english = [number for number in named if tokens[number].removeprefix(SPACE) in COLOR_WORDS]
    return english + [number for word in _spelled(tokens, named, TELLING_COLORS) for number in word]


def _what(tokens: Sequence[str], named: range, turn: Turn) -> list[int]:
    english = [number for number in named if _says_what(tokens[number].removeprefix(SPACE), turn)]
    chinese = _spelled(tokens, named, TELLING_SHAPES + CHINESE_EXTREMES)
    return english + [number for word in chinese for number in word]


def _spelled(tokens: Sequence[str], span: range, words: Sequence[str]) -> list[range]:
    """The tokens of each of those words in the order in which they stand there."""
    starts = [*accumulate((len(tokens[number]) for number in span), initial=0)]
    text = "".join(tokens[number] for number in span)
    found: list[range] = []
    for word in words:
        begin = text.find(word)
        while begin >= 0:
            end = begin + len(word)
            held = [number for number, start in zip(span, starts, strict=False) if start < end]
            first = next(number for number, over in zip(span, starts[1:], strict=True) if over > begin)
            found.append(range(first, held[-1] + 1))
            begin = text.find(word, end)
    return sorted(found, key=lambda word: word.start)


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
    """Where words for a shape stand, or end, with which a name ends."""
    english = [number for number in range(begin, end) if tokens[number].removeprefix(SPACE) in SHAPE_WORDS]
    return english or [word.stop - 1 for word in _spelled(tokens, range(begin, end), CHINESE_SHAPES)]


def commas(tokens: Sequence[str], begin: int, end: int) -> list[range]:
    """The tokens of each mark between things."""
    return _spelled(tokens, range(begin, end), COMMAS)


def _named(tokens: Sequence[str], question: int, answer: int, turn: Turn, asker: int) -> range:
    """Where the name is that an asker goes by: the one in the answer before it, else the question up to it."""
    if turn.kind == "relation":
        before = [place for place in last_words(tokens, question, answer) if place < asker]
        return range(before[-1] + 1 if before else question, asker + 1)
    begin = next((number for number in range(asker, answer - 1, -1) if tokens[number] == REF), question)
    end = next((number for number in range(begin, asker) if tokens[number] == REF_END), asker)
    return range(begin, (end if begin >= answer else min(asker, answer - 1)) + 1)
