"""What each token of a conversation is to look at, of what a picture shows.

A question names a thing, and the answer is taken from the tokens that show it: a shape's color or box from the tokens
of the view of the whole that show the shape, the characters of a string one by one from those of the tiles, and what is
not there from nowhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from nano.questions import Turn

from .cells import EDGES
from .clues import REF_END, clues, written_boxes
from .names import commas, last_words
from .questions import NOTHING, SEPARATORS
from .shown import Character, Shown, Thing

NAMING, LOOKING, FOLLOWING = 0, 1, 2  # layers that are told
DET_END = "<|/det|>"
COUNTED = ("count", "several", "in_context")  # kinds whose answer, if it is a number, is one of things
LABEL_AND_BAR = 2  # of a chart: more things than these are counted


@dataclass(frozen=True)
class Look:
    """What a token of a conversation is to look at.

    Attributes:
        number: the token's place.
        things: in equal shares; NOTHING stands for the first token of all.
        layer: LOOKING or FOLLOWING.
        middles: whether it is at their middles alone, so that large things weigh no more than small ones.
        counted: whether they are counted.
        following: what is written next, where something is looked at by what was written last.
    """

    number: int
    things: Sequence[Thing]
    layer: int = LOOKING
    middles: bool = False
    counted: bool = False
    following: Thing | None = None


def looks(tokens: Sequence[str], answered: Sequence[bool], turns: Sequence[Turn], seen: Shown) -> Iterator[Look]:
    """Which tokens of a conversation are to look at which things.

    Where things are counted NOTHING has a share, too, which is the smaller the more there are. Of two things of which
    one is seen from the other, each is looked at from its name, so that a later layer has both places.

    Args:
        tokens: as the tokenizer writes them.
        answered: whether each is of an answer.
        turns: what is asked in the conversation.
        seen: in its picture.
    """
    for number, edges in clues(tokens, answered):
        if tuple(edges) in seen.boxes:
            yield Look(number, seen.boxes[tuple(edges)])
    for turn, question, begin, end in places_of(turns, answered):
        if turn.about == (NOTHING,):
            name = max(number for number in range(begin) if tokens[number] == REF_END)
            yield from (Look(number, [NOTHING]) for number in (name - 1, name, begin - 1))
        elif turn.about and _counts(turn):
            counted = [*map(_thing, turn.about)]
            look = Look(begin - 1, [NOTHING, *counted], middles=_shapes(counted), counted=True)
            yield from (replace(look, layer=layer) for layer in (LOOKING, FOLLOWING))
        elif turn.kind == "relation":
            yield from _of_relation(tokens, question, begin, turn)
        elif turn.kind == "describe":
            for place, number in enumerate(due(tokens[begin : end - 1]), begin - 1):
                yield Look(place, [*map(_thing, turn.about[number : number + 1])] or [NOTHING], middles=True)
        elif turn.kind == "chart" and len(turn.about) == LABEL_AND_BAR:
            yield from _of_chart(tokens[begin : end - 1], begin - 1, turn, seen)
        elif turn.about:
            yield from _of_answer(tokens[begin : end - 1], begin - 1, turn, seen)
        if turn.kind == "character":  # the view of the whole shows where it is in the picture
            things = [*map(_thing, turn.about)]
            yield from (Look(number, things, FOLLOWING, middles=True) for number in range(begin - 1, end - 2))
        for place, following in _ends(tokens[begin:end], turn.kind):
            yield Look(begin + place, seen.boxes.get(following, [NOTHING]))


def _counts(turn: Turn) -> bool:
    if turn.kind == "chart":
        return len(turn.about) > LABEL_AND_BAR
    return turn.kind in COUNTED and turn.answer.isdigit()


def _shapes(things: Sequence[Thing]) -> bool:
    """Whether they are shapes or bars, which are counted by their middles; lines are by their first characters."""
    return all(isinstance(thing, int) for thing in things)


def _of_relation(tokens: Sequence[str], question: int, answer: int, turn: Turn) -> Iterator[Look]:
    """From the last word of either name."""
    for word, thing in zip(compared(tokens, question, answer), turn.about, strict=False):
        yield Look(word, [_thing(thing)])


def compared(tokens: Sequence[str], question: int, answer: int) -> list[int]:
    """The last words of two names in a question about them: of what is seen, and of what it is seen from."""
    words = last_words(tokens, question, answer)
    if len(words) != 2:
        return []
    return words[::-1] if "," in tokens[question:answer] else words  # seen from that, where is this


def due(words: Sequence[str]) -> Iterator[int]:
    """Of a description the number of the thing that is due, from before its first word to after its last one.

    That is the next one from the last word of a name on.

    Args:
        words: as the tokenizer writes them, without the end.
    """
    ends = [*(mark.start for mark in commas(words, 0, len(words))), len(words)]
    for number in range(len(words) + 1):
        yield sum(end <= number for end in ends)


def _thing(meant: int | str) -> Thing:
    return meant if isinstance(meant, int) else (meant, 0)


def _ends(words: Sequence[str], kind: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Words of an answer from which it goes on to another box or ends, and the edges of that box, none at the end."""
    boxes = [(first, tuple(edges)) for first, edges in written_boxes(words)]
    for (first, _), (_, following) in pairwise([*boxes, (len(words), ())]):
        last = first + EDGES - 1
        yield (words.index(DET_END, last) if kind == "caption" else last), following


def places_of(turns: Sequence[Turn], answered: Sequence[bool]) -> Iterator[tuple[Turn, int, int, int]]:
    """Each turn with the places where its question begins, where its answer begins and where that ends."""
    question = 0
    for turn, (begin, end) in zip(turns, spans(answered), strict=True):
        yield turn, question, begin, end
        question = end


def spans(answered: Sequence[bool]) -> list[tuple[int, int]]:
    """Begin and end of each answer. The first token, which nothing writes, may count as answered."""
    padded = [False, *answered[1:], False]
    edges = [number for number in range(1, len(padded)) if padded[number] != padded[number - 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _of_chart(words: Sequence[str], before: int, turn: Turn, seen: Shown) -> Iterator[Look]:
    """From a bar to its label, which is then read, or from a label to its bar, which knows its value."""
    first, last = map(_thing, turn.about)
    if isinstance(last, int):
        for number in range(len(words)):
            yield Look(before + number, [first])
            yield Look(before + number, [last], FOLLOWING)
        return
    taken = _taken(replace(turn, about=turn.about[1:]))
    yield Look(before, [first])
    yield Look(before, [last], FOLLOWING)
    yield from (look for number, look in _step_by_step(_of_words(words, taken), before, seen) if number > 0)


def _of_answer(words: Sequence[str], before: int, turn: Turn, seen: Shown) -> Iterator[Look]:
    """Of the words of an answer, each of which the token before it writes."""
    taken = _taken(turn)
    if not taken or len("".join(words)) != len(turn.answer):  # in Chinese tokens are bytes
        yield from (Look(before + number, [*map(_thing, turn.about)]) for number in range(len(words)))
        return
    yield from (look for _, look in _step_by_step(_of_words(words, taken), before, seen))


def _taken(turn: Turn) -> list[Character | None]:
    """For each character of an answer what it is taken from; nothing where that is not plain."""
    if turn.kind != "table" and turn.answer.split(SEPARATORS[0]) != [*turn.about]:
        return []
    taken: list[Character | None] = []
    for part in map(str, turn.about):
        taken += [None] * (turn.answer.index(part, len(taken)) - len(taken))
        taken += [(part, number) for number in range(len(part))]
    return taken + [None] * (len(turn.answer) - len(taken))


def _of_words(words: Sequence[str], taken: Sequence[Character | None]) -> list[Character | None]:
    """For each word the first character that one of its own is taken from."""
    starts = [*accumulate(map(len, words), initial=0)]
    return [next((thing for thing in taken[start:end] if thing is not None), None) for start, end in pairwise(starts)]


def _step_by_step(taken: Sequence[Character | None], before: int, seen: Shown) -> Iterator[tuple[int, Look]]:
    """Numbers of words taken from one character after the other, or from none, and of the end, and their looks.

    LOOKING finds by what is written already what was the last, FOLLOWING goes on from there to the next token of the
    string, because what the same one shows was seen already. At the beginning LOOKING looks at the first. Only after
    what stands between strings FOLLOWING goes on to the next one.
    """
    last: Character | None = None
    for number in range(len(taken) + 1):
        following = next((thing for thing in taken[number:] if thing is not None), NOTHING)
        if number == 0 or last is not None or isinstance(following, tuple):
            looked = following if last is None else last
            between = number > 0 and taken[number - 1] is None
            yield number, Look(before + number, [looked], following=following)
            further = _further(*looked, seen) if isinstance(looked, tuple) and not between else following
            yield number, Look(before + number, [further], FOLLOWING)
        if number < len(taken) and taken[number] not in (None, *taken[number + 1 :]):
            last = taken[number]


def _further(string: str, number: int, seen: Shown) -> Thing:
    """The first character of the next token of a string, if there is one."""
    here = seen.tokens.get((string, number))
    later = ((string, each) for each in range(number + 1, len(string)))
    return next((each for each in later if seen.tokens.get(each) != here), NOTHING)
