"""What the tokens of nano-vl2's pictures show, by hand, and which of them look at each other for it."""

import pytest

from deepseek_vl_hf.training.collator import ConversationCollator
from nano.cells import HUES, THINGS
from nano.questions import Turn
from nano.scenes import Bar, ChartScene, Text
from nano_vl2.dataset import AnsweringDataset, Example, conversation
from nano_vl2.looks import NAMING
from nano_vl2.model import build_processor
from nano_vl2.names import PICTURE_HEAD
from nano_vl2.pictures import TILE, Picture, picture_of
from nano_vl2.pointers import find_pointers
from nano_vl2.shown import shown
from two_tiles import SCENE

WHITE = (255, 255, 255)
TILES = 20 + 1  # tokens of the whole and the separator before those of the tiles
HARD = 200_000  # a row after which all are as hard as held-out ones


def test_tokens_show_shapes_in_the_whole_and_characters_in_the_tiles():
    """The whole is scaled by a half and 28 px down; tokens are 28 px wide, five to a row of four."""
    seen = shown([SCENE])
    assert SCENE.grid == (2, 1)
    assert seen.tokens[0] == [5 * 1 + 0]  # (20, 43)
    assert seen.tokens[1] == [5 * 2 + 3]  # (85, 73)
    assert seen.tokens["7B", 0] == [TILES + 9 * 1 + 5]  # (156, 30)
    assert seen.tokens["7B", 1] == [TILES + 9 * 1 + 6]  # (170, 30)
    assert seen.boxes == {(6, 7, 12, 20): [0], (35, 35, 41, 45): [1]}
    assert seen.middles == {0: [5], 1: [13], ("7B", 0): [5 * 1 + 2], ("7B", 1): [5 * 1 + 3]}
    assert seen.links == {}


def test_large_text_is_looked_at_in_the_whole():
    """In the tiles its characters take more than a token; a line below it cannot be linked to what comes later."""
    large = Text("MIX", "black", "DejaVuSansMono", 4, 40, 60)  # characters of 18 pixels in the whole
    small = Text("OK", "red", "DejaVuSansMono", 4, 100, 20)
    seen = shown([Picture((large, small), 2 * TILE, TILE, WHITE)])
    assert [seen.tokens["MIX", number] for number in range(3)] == [[5 * 1 + 0], [5 * 1 + 1], [5 * 1 + 1]]
    assert [seen.slots["MIX", number] for number in range(3)] == [0, 0, 1]
    below = [TILES + 9 * 3 + column for column in (0, 0)]
    assert [seen.tokens["OK", number][0] for number in range(2)] == below
    assert seen.links == {below[0]: [5 * 1 + 1]}


def test_bars_know_their_value_and_labels_their_bar():
    """Tokens of two by two tiles are 32 of a chart's 256 pixels wide; one of value 1 is 8 pixels high, on 218."""
    bars = (Bar("A", "red", 5), Bar("B", "blue", 20), Bar("C", "green", 11))
    seen = shown([picture_of(ChartScene(WHITE, bars, "OK", "DejaVuSans"), 2 * TILE)])
    value, top, bottom, label = (TILES + 9 * row for row in (3, 4, 6, 7))
    # 178 and 58 are in the rows of their values, at 168 and 48; 130 is not, with its value at 120.
    assert [seen.tokens[number] for number in range(3)] == [[TILES + 9 * 5 + 1], [TILES + 9 * 1 + 4], [top + 6]]
    assert seen.middles == {number: seen.tokens[number] for number in range(3)}
    assert [seen.tokens[each, 0] for each in "ABC"] == [[label + 1], [label + 4], [label + 6]]
    assert seen.links[top + 6] == [value + 6]
    assert all(seen.links[token] == [token] for token in (seen.tokens[0][0], seen.tokens[1][0]))
    assert [seen.links[label + column] for column in (1, 4, 6)] == [[bottom + 1], [bottom + 4], [bottom + 6]]
    assert seen.shapes == [(THINGS.index("bar"), HUES.index(color)) for color in ("red", "blue", "green")]


def test_each_cell_of_a_table_knows_the_one_before():
    dataset = AnsweringDataset(10**6, kinds=["table"])
    row = dataset[HARD]
    seen, (turn,) = row["shown"], row["turns"]
    firsts = [seen.tokens[cell, 0][0] for cell in turn.about]
    lasts = [seen.tokens[cell, len(cell) - 1][-1] for cell in turn.about]
    linked = {here: [before] for here, before in zip(firsts[1:], lasts[:-1], strict=True) if before <= here}
    assert len(linked) > 1
    assert seen.links == linked


@pytest.fixture(scope="module")
def processor():
    return build_processor(800)


@pytest.mark.parametrize("pictures", [2, 3])
def test_several_pictures_are_counted_on(processor, pictures):
    """Three are not cut into tiles, so that the second one begins earlier."""
    seen = shown([SCENE] * pictures)
    second = TILES + 4 * (9 if pictures == 2 else 5)
    assert seen.tokens[2] == [second + 5 * 1 + 0]
    assert seen.middles[3] == [second + 13]
    assert seen.shapes[:2] == seen.shapes[2:4]
    assert ("7B", 0) not in seen.tokens
    heads = [f"This is image_{number}: " for number in range(1, pictures + 1)]
    turn = Turn("several", "What color is the star in image_2?", "red", (2,))
    one = Example("several", [SCENE] * pictures, heads, [turn])
    batch = ConversationCollator(processor)([{"messages": conversation(one)}])
    ids = batch["input_ids"][0].tolist()
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    spots = [place for place, token in enumerate(ids) if token == processor.image_token_id]
    found = find_pointers(processor.tokenizer, batch, [{"shown": seen, "turns": [turn]}], processor.image_token_id)
    numbers = {each.number: each.places for each in found if each.layer == NAMING and each.heads == (PICTURE_HEAD,)}
    written = [place for place, token in enumerate(tokens) if tokens[place - 1] == "_"]  # in front, and in the question
    assert numbers[spots[5]] == [written[0]]
    assert numbers[spots[second + 5]] == [written[1]]
    asks = batch["labels"][0].tolist().index(ids[-2]) - 1
    assert numbers[asks] == [written[-1]]
    assert [each.places for each in found if each.number == asks and each.layer > NAMING] == [[spots[second + 5]]]
