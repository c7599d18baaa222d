"""Where nano-vl2 is told to look in answering: at things, at words, and how that is asked of attention."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from deepseek_vl_hf.training.collator import ConversationCollator
from nano.questions import Turn
from nano.scenes import Shape, Text
from nano_vl2.cells import IGNORED
from nano_vl2.dataset import AnsweringDataset, Example, conversation
from nano_vl2.looks import FOLLOWING, LOOKING, NAMING, compared, due, looks
from nano_vl2.model import build_processor
from nano_vl2.names import last_words, names
from nano_vl2.pictures import TILE, Picture
from nano_vl2.pointers import COMPARING_HEADS, COUNTING_HEAD, LINK_HEAD, MOST_HEADS, NEIGHBOR_HEAD, Watch, find_pointers
from nano_vl2.questions import NOTHING
from nano_vl2.shown import shown
from two_tiles import SCENE

HARD = 200_000  # a row after which all are as hard as held-out ones


@pytest.fixture(scope="module")
def processor():
    return build_processor(800)


# Characters of 12 pixels: two in each of two tokens. The square's middle lies in the third token of the second row.
CROWDED = Picture(
    (
        Text("MIX4", "red", "DejaVuSansMono", 4, 14, 20),
        Shape("square", "red", 80, 50, 50),
        Shape("star", "blue", 20, 90, 20),
    ),
    TILE,
    TILE,
    (255, 255, 255),
)


def told(processor, turn, picture=CROWDED, layer=LOOKING):
    """Places, and pointers, both counted from the picture's first token."""
    messages = conversation(Example("any", [picture], [""], [turn]))
    batch = ConversationCollator(processor)([{"messages": messages}])
    row = {"shown": shown([picture]), "turns": [turn]}
    found = find_pointers(processor.tokenizer, batch, [row], processor.image_token_id)
    first = batch["input_ids"][0].tolist().index(processor.image_token_id)
    counted = [replace(each, number=each.number - first) for each in found if each.layer == layer]
    return [([place - first for place in each.places], each) for each in counted]


def test_what_reads_is_told_which_of_a_token_s_characters_is_next(processor):
    turn = Turn("read_tiles", "What is written?", "MIX4", ("MIX4",))
    found = told(processor, turn)
    assert [places for places, _ in found] == [[21], [21], [21], [22], [22]]
    assert [each.slot for _, each in found] == [0, 1, 0, 1, IGNORED]
    followed = told(processor, turn, layer=FOLLOWING)
    assert [places for places, _ in followed[:3]] == [[22]] * 3
    assert [each.places for _, each in followed[3:]] == [[0], [0]]  # the string ends in that token


def test_tokens_with_text_look_at_the_one_before(processor):
    found = told(processor, Turn("count", "How many shapes are there?", "2", (0, 1)), layer=NAMING)
    text = [places for places, each in found if each.heads == (NEIGHBOR_HEAD,) and each.number in (21, 22)]
    assert text == [[20], [21]]


def test_between_wide_characters_there_are_tokens_with_parts_of_them(processor):
    """Characters of 38 pixels: their middles lie in the first, the third and the fourth token of a row."""
    wide = Picture((Text("WWW", "red", "DejaVuSans", 4, 50, 38),), 2 * TILE, TILE, (255, 255, 255))
    found = told(processor, Turn("read_large", "What is written?", "WWW", ("WWW",)), wide, NAMING)
    assert [places for places, each in found if each.heads == (NEIGHBOR_HEAD,)] == [[29], [30], [32]]


def test_things_are_counted_by_their_middles(processor):
    turn = Turn("count", "How many shapes are there?", "2", (0, 1))
    for layer, counts in ((LOOKING, [2, IGNORED, IGNORED]), (FOLLOWING, [IGNORED] * 3)):
        found = told(processor, turn, layer=layer)
        assert [places for places, _ in found[1:]] == [[5 * 1 + 2], [5 * 3 + 0]]
        assert found[0][1].places == [0]
        assert [each.count for _, each in found] == counts
        assert {(each.heads, each.weight) for _, each in found} == {((0, 1, 2, 3), 1 / 3)}
    assert len(shown([CROWDED]).tokens[0]) > 1


def test_lines_are_counted_by_their_first_characters(processor):
    turn = Turn("count", "How many lines are written?", "1", ("MIX4",))
    for layer, counts in ((LOOKING, [1, IGNORED]), (FOLLOWING, [IGNORED] * 2)):
        found = told(processor, turn, layer=layer)
        assert [each.places for _, each in found[:1]] == [[0]]
        assert [places for places, _ in found[1:]] == [[21]]
        assert [each.count for _, each in found] == counts


def looked(processor, question, answer, about, kind="any"):
    """What each token of an answer, and of the question, is to look at; with the token that it writes."""
    pieces = [processor.tokenizer.tokenize(each) for each in (f"x{question}:", answer)]
    tokens, asked = [*pieces[0], *pieces[1], "<eos>"], len(pieces[0])
    answered = [number >= asked for number in range(len(tokens))]
    found = looks(tokens, answered, [Turn(kind, question, answer, about)], shown([SCENE]))
    return [(tokens[look.number], tokens[look.number + 1], look) for look in found]


def pointed(processor, question, answer, about, kind="any", layer=LOOKING):
    """Of one layer the things alone."""
    found = looked(processor, question, answer, about, kind)
    return [(token, written, [*look.things]) for token, written, look in found if look.layer == layer]


def test_answers_are_written_from_what_they_are_about(processor):
    assert pointed(processor, "Where is it?", "left", (0,)) == [(":", "left", [0])]
    assert pointed(processor, "What color is 7?", "black", ("7B",)) == [(":", "black", [("7B", 0)])]
    in_chinese = pointed(processor, "星形是什么颜色？", "红色", (0,))
    assert {tuple(things) for _, _, things in in_chinese} == {(0,)}


def test_strings_are_read_from_where_the_last_character_was(processor):
    asked = "What is written?", "7B", ("7B",)
    assert pointed(processor, *asked) == [
        (":", "7", [("7B", 0)]),
        ("7", "B", [("7B", 0)]),
        ("B", "<eos>", [("7B", 1)]),
    ]
    followed = pointed(processor, *asked, layer=FOLLOWING)
    assert [things for _, _, things in followed] == [[("7B", 1)], [("7B", 1)], [NOTHING]]  # each has a token for itself


def test_lines_are_read_one_after_the_other(processor):
    """What follows a line is looked for after the comma; that the line ends is one thing to find, and that another."""
    followed = pointed(processor, "Read all.", "7B, OK", ("7B", "OK"), "read_all", layer=FOLLOWING)
    assert [(written, things) for _, written, things in followed] == [
        ("7", [("7B", 1)]),
        ("B", [("7B", 1)]),
        (",", [NOTHING]),
        ("Ġ", [("OK", 0)]),
        ("O", [("OK", 0)]),
        ("K", [NOTHING]),  # SCENE does not show it
        ("<eos>", [NOTHING]),
    ]


def test_descriptions_look_at_what_is_due(processor):
    """That is the next thing from the last word of a name on, and at the end nothing."""
    found = pointed(processor, "Describe it.", "a red star, a blue circle", (0, 1), "describe")
    assert [(written, things) for _, written, things in found] == [
        ("a", [0]),
        ("Ġred", [0]),
        ("Ġstar", [0]),
        (",", [1]),
        ("Ġa", [1]),
        ("Ġblue", [1]),
        ("Ġcircle", [1]),
        ("<eos>", [NOTHING]),
    ]
    assert not pointed(processor, "Describe it.", "a red star", (0,), "describe", layer=FOLLOWING)
    chinese = "红色的星形、蓝色的圆形"
    looked_at = [things for _, _, things in pointed(processor, "描述这张图片。", chinese, (0, 1), "describe")]
    words = processor.tokenizer.tokenize(chinese)
    first = len(processor.tokenizer.tokenize("红色的星形"))
    assert looked_at == [[0]] * first + [[1]] * (len(words) - first) + [[NOTHING]]


def test_in_the_middle_of_a_comma_the_next_thing_is_due():
    """In Chinese it can be three tokens."""
    assert [*due(["x", "ã", "Ģ", "ģ", "y"])] == [0, 1, 1, 1, 1, 2]


def test_things_and_commas_are_counted_for_descriptions(processor):
    """A shape's middle looks at those before it, a word at the commas before it, and the first token has a share."""
    turn = Turn("describe", "Describe the picture.", "a red square, a blue star", (0, 1))
    found = [
        (each.number, *places, each.weight)
        for places, each in told(processor, turn, layer=NAMING)
        if each.heads == (COUNTING_HEAD,)
    ]
    first = min(place for _, place, _ in found)  # of all
    assert [each for each in found if each[0] in (7, 15)] == [(7, first, 1), (15, first, 0.5), (15, 7, 0.5)]
    words = [each for each in found if each[0] > 22]
    assert [(place, weight) for _, place, weight in words[:4]] == [(first, 1)] * 4
    comma = words[4][0]
    assert words[4:] == [(comma + n, place, 0.5) for n in range(4) for place in (first, comma)]


def test_tables_go_on_from_cell_to_cell(processor):
    """The first cell is looked for until it is written."""
    followed = pointed(processor, "As Markdown!", "| 7B | 5 |", ("7B", "5"), "table", FOLLOWING)
    assert [(written, things) for _, written, things in followed] == [
        ("|", [("7B", 1)]),
        ("Ġ", [("7B", 0)]),
        ("7", [("7B", 0)]),
        ("B", [("7B", 1)]),
        ("Ġ|", [NOTHING]),
        ("Ġ", [("5", 0)]),
        ("5", [("5", 0)]),
        ("Ġ|", [NOTHING]),
        ("<eos>", [NOTHING]),
    ]


def test_where_a_character_is_the_view_of_the_whole_shows(processor):
    single = Picture((Text("K", "red", "DejaVuSans", 150, 50, 40),), 2 * TILE, TILE, (255, 255, 255))
    turn = Turn("character", "Where is K?", "top right", ("K",))
    assert [places for places, _ in told(processor, turn, single)] == [[21 + 9 + 5, 5 + 2]] * 2  # in any view
    assert [places for places, _ in told(processor, turn, single, FOLLOWING)] == [[5 + 2]] * 2


def test_values_are_looked_for_at_the_bar(processor):
    """By its color at once, by its label from there."""
    by_color = "What is the value of the red bar?", "12", (1,), "chart"
    assert [things for _, _, things in pointed(processor, *by_color)] == [[1], [1]]
    by_label = "What is the value of K?", "12", ("K", 1), "chart"
    assert [things for _, _, things in pointed(processor, *by_label)] == [[("K", 0)]] * 2
    assert [things for _, _, things in pointed(processor, *by_label, layer=FOLLOWING)] == [[1]] * 2


def test_labels_are_looked_for_at_the_bar_and_read(processor):
    asked = "Which bar is the tallest?", "7B", (1, "7B"), "chart"
    assert [things for _, _, things in pointed(processor, *asked)] == [[1], [("7B", 0)], [("7B", 1)]]
    followed = pointed(processor, *asked, layer=FOLLOWING)
    assert [things for _, _, things in followed] == [[("7B", 0)], [("7B", 1)], [NOTHING]]


def test_a_value_is_no_number_of_bars(processor):
    assert pointed(processor, "How many bars are there?", "3", (0, 1, 2), "chart") == [(":", "3", [NOTHING, 0, 1, 2])]
    assert pointed(processor, "What is the value of the red bar?", "1", (0,), "chart") == [(":", "1", [0])]


@pytest.mark.parametrize(
    ("question", "about"),
    [("Where is the star relative to the circle?", (0, 1)), ("Seen from the circle, where is the star?", (0, 1))],
)
def test_what_is_seen_from_something_is_looked_at_from_its_name(processor, question, about):
    found = pointed(processor, question, "left", about, "relation")
    assert {token: things for token, _, things in found} == {"Ġstar": [0], "Ġcircle": [1]}


@pytest.mark.parametrize(
    ("question", "seen", "other"),
    [
        ("Where is the star relative to the square?", " star", " square"),
        ("Seen from the square, where is the star?", " star", " square"),
        ("星形在圆形的哪一边？", "星形", "圆形"),
    ],
)
def test_two_names_are_compared_by_a_head_for_each(processor, question, seen, other):
    """Before the answer begins."""
    tokens = processor.tokenizer.tokenize(f"x{question}:")
    words = compared(tokens, 1, len(tokens))
    for word, name in zip(words, (seen, other), strict=True):
        assert processor.tokenizer.convert_tokens_to_string(tokens[: word + 1]).endswith(name)
    (first, one), (second, other_one) = told(processor, Turn("relation", question, "left", (1, 0)), layer=FOLLOWING)
    assert (one.heads, other_one.heads) == tuple((head,) for head in COMPARING_HEADS)
    assert second[0] - first[0] == words[1] - words[0]
    assert one.number == other_one.number > max(first[0], second[0])


def test_names_in_chinese_are_looked_at_and_from_too(processor):
    """There a word is one or several tokens. What all words for shapes and all for colors end with says nothing."""
    tokenizer, question = processor.tokenizer, "红色的星形在正方形的哪一边？"
    assert [things for _, _, things in pointed(processor, question, "左边", (0, 1), "relation")] == [[0], [1]]
    tokens = [*tokenizer.tokenize(f"x{question}:"), "left"]
    ends = last_words(tokens, 1, len(tokens) - 1)
    assert tokenizer.convert_tokens_to_string(tokens[: ends[0] + 1]) == "x红色的星形"
    assert tokenizer.convert_tokens_to_string(tokens[ends[0] + 1 : ends[1] + 1]) == "在正方形"
    turn = Turn("relation", question, "left", (0, 1))
    found = [
        tokenizer.convert_tokens_to_string([tokens[place] for place in places]).rstrip("色的形")
        for _, _, places in names(tokens, 1, len(tokens) - 1, turn, ends)
    ]
    assert found == ["红", "星", "x", "正方"]


def test_what_is_counted_leaves_a_share_to_nothing(processor):
    assert pointed(processor, "How many?", "2", (0, 1), "count") == [(":", "2", [NOTHING, 0, 1])]


def test_what_is_not_there_is_looked_for_in_vain(processor):
    question, answer = "<|ref|>all stars<|/ref|>", "There are no stars."
    assert [(token, things) for token, _, things in pointed(processor, question, answer, (NOTHING,))] == [
        ("Ġstars", [NOTHING]),
        ("<|/ref|>", [NOTHING]),
        (":", [NOTHING]),
    ]


def test_boxes_are_written_from_the_tokens_of_their_shapes(processor):
    boxes = "[120, 140, 240, 400], [700, 700, 820, 900]"
    found = pointed(processor, "All shapes!", f"<|ref|>all shapes<|/ref|><|det|>[{boxes}]<|/det|>", ())
    assert [(written, things) for _, written, things in found if written.startswith("[")][-2:] == [
        ("[120,", [0]),
        ("[700,", [1]),
    ]
    assert (" 700,", " 820,", [1]) in found
    assert (" 400]", ",", [1]) in found  # it goes on with the other one
    assert (" 900]", "]", [NOTHING]) in found


def test_captions_go_on_after_each_thing(processor):
    names = "<|ref|>a red star<|/ref|><|det|>[[120, 140, 240, 400]]<|/det|>"
    names += ", <|ref|>a blue circle<|/ref|><|det|>[[700, 700, 820, 900]]<|/det|>"
    found = pointed(processor, "<|grounding|>All!", names, (), "caption")
    assert [(written, things) for token, written, things in found if token == "<|/det|>"] == [
        (",", [1]),
        ("<eos>", [NOTHING]),
    ]
    assert (":", "<|ref|>", [0]) in found
    assert ("Ġred", "Ġstar", [0]) in found
    assert ("Ġ", "<|ref|>", [1]) in found


def looks_for(processor, question, answer, about=(), kind="find", askers=()):
    """What the first layer's heads look at: the token that looks, the words for each head."""
    pieces = [processor.tokenizer.tokenize(each) for each in (f"x{question}:", answer)]
    tokens, asked = [token for piece in pieces for token in piece], len(pieces[0])
    places = [max(n for n, token in enumerate(tokens) if token == each) for each in askers] or [asked - 1]
    found = defaultdict(list)
    for place, head, words in names(tokens, 1, asked, Turn(kind, question, answer, about), places):
        assert head == len(found[tokens[place]])
        found[tokens[place]].append("".join(tokens[word] for word in words))
    return dict(found)


def test_names_are_looked_at_by_color_and_by_shape(processor):
    """Where there is no word for one of them, the first token of all says so."""
    assert looks_for(processor, "What is the green shape?", "star", (0,)) == {":": ["Ġgreen", "x"]}
    assert looks_for(processor, "How many red stars?", "2", (0, 1), "count") == {":": ["Ġred", "Ġstars"]}
    assert looks_for(processor, "What color is B?", "red", ("B",), "character") == {":": ["x", "B"]}
    asked = "What does the red text say?", "7B", ("7B",), "read_tiles"
    assert looks_for(processor, *asked, askers=[":", "7"]) == {":": ["Ġred", "x"], "7": ["Ġred"]}
    assert looks_for(processor, "What is the value of K7?", "3", ("K7", 0), "chart") == {":": ["x", "K7"]}
    assert looks_for(processor, "Which bar is the tallest?", "K", (0, "K"), "chart") == {":": ["x", "Ġtallest"]}
    refused = "<|ref|>the pink cross<|/ref|>", "There is no pink cross.", (NOTHING,), "absent", ["<|/ref|>", ":"]
    assert looks_for(processor, *refused) == {token: ["Ġpink", "Ġcross"] for token in ("<|/ref|>", ":")}
    assert looks_for(processor, "绿色的是什么形状？", "星形", (0,))[":"][1] == "x"


@pytest.mark.parametrize(
    "question", ["Where is the star relative to the red cross?", "Seen from the red cross, where is the star?"]
)
def test_each_of_two_names_has_its_words(processor, question):
    looked_for = looks_for(processor, question, "left", (0, 1), "relation", ["Ġstar", "Ġcross"])
    assert looked_for == {"Ġstar": ["x", "Ġstar"], "Ġcross": ["Ġred", "Ġcross"]}


def test_descriptions_name_nothing_themselves(processor):
    """What was said of one thing is not what is said of the next one."""
    found = looks_for(processor, "Describe it.", "a red star", (0,), "describe", [":", "Ġred", "Ġstar"])
    assert found == {":": ["x", "x"]}


def test_words_are_looked_at_from_where_things_are(processor):
    """The first layer is told at no other tokens than the second one, and at most of those."""
    dataset = AnsweringDataset(10**6, kinds=("board", "tiles"))
    rows = [dataset[HARD + number] for number in range(16)]
    batch = ConversationCollator(processor)([{"messages": row["messages"]} for row in rows])
    found = find_pointers(processor.tokenizer, batch, rows, processor.image_token_id)
    named, looked = (
        {(each.conversation, each.number) for each in found if each.layer == layer and each.heads[0] < LINK_HEAD}
        for layer in (NAMING, LOOKING)
    )
    assert named <= looked
    assert len(named) > 0.5 * len(looked)


def test_boxes_are_written_with_a_look_at_their_name(processor):
    answer = "<|ref|>the blue circle<|/ref|><|det|>[[120, 140, 240, 400]]<|/det|>"
    found = looks_for(processor, "<|ref|>the blue circle<|/ref|>", answer, askers=["<|det|>", " 140,"])
    assert found == {token: ["Ġblue", "Ġcircle"] for token in ("<|det|>", " 140,")}


def test_a_region_is_looked_at_edge_by_edge(processor):
    found = looks_for(processor, "What is in <|det|>[[20, 40, 60, 80]]<|/det|>?", "a red star", (0,), "region")
    assert found == {":": ["[20,", " 40,", " 60,", " 80]"]}


def test_attention_is_asked_of_its_heads():
    # So that no two of them add up to 1, of which the logarithm is 0.
    watch, weights = Watch(), 0.1 + 0.3 * torch.rand(1, MOST_HEADS + 1, 4, 4)
    looked_at = torch.tensor([[True, True, False, False], [False, False, True, False], [True, False, False, False]])
    lookers = torch.tensor([[LOOKING, LOOKING, NAMING], [0, 0, 0], [2, 3, 1]])
    looks = torch.tensor([[0.5, 0.5, 0, 0], [0.25, 0.25, 0, 0], [0, 0, 1, 0]])
    watch.see(LOOKING, None, None, (None, weights))
    expected = [weights[0, :2, 2, :2].sum(-1).mean(), weights[0, :2, 3, 2].mean()]
    loss = watch.loss(LOOKING, lookers, looked_at, looks)
    assert loss.item() == pytest.approx(-(expected[0].log() + 0.5 * expected[1].log()).item() / 1.5, rel=1e-4)
    assert watch.loss(LOOKING, lookers, looked_at, looks) == 0  # nothing was seen since
    watch.see(NAMING, None, None, (None, weights))
    assert watch.loss(NAMING, lookers, looked_at, looks).item() == pytest.approx(
        -weights[0, 2, 1, 0].log().item(), rel=1e-4
    )
