"""Batches of nano-vl2's answering: shared pictures, the tokenizer's words, clues, pointers."""

from collections import defaultdict
from functools import partial

import pytest
import torch

from deepseek_vl_hf.models.deepseek_vl2.tiling import num_tiles
from deepseek_vl_hf.training.collator import ConversationCollator
from nano.questions import Turn
from nano.scenes import Shape, Text
from nano_vl2.cells import CHARACTERS, EDGES, IGNORED, PLACES, box_loss, entropy, thing_loss
from nano_vl2.clues import LAYER, ClueHead, clues, stack_clues
from nano_vl2.dataset import CONVERSATIONS, AnsweringDataset
from nano_vl2.model import build_model, build_processor
from nano_vl2.names import names
from nano_vl2.pictures import TILE, Picture
from nano_vl2.pointers import (
    FOLLOWING,
    LOOKING,
    MOST_HEADS,
    NAMING,
    TOLD,
    Watch,
    find_pointers,
    looks,
    shown,
    stack_pointers,
)
from nano_vl2.questions import NOTHING
from nano_vl2.sharing import Place, find_trees
from nano_vl2.trainer import AnsweringCollator

HARD = 200_000  # a row after which all are as hard as held-out ones


@pytest.fixture(scope="module")
def processor():
    return build_processor(800)


def test_several_conversations_share_pictures_but_not_questions():
    dataset = AnsweringDataset(10**6)
    shared = defaultdict(list)
    rows = [dataset[HARD + number] for number in range(64)]  # kept, because a picture is known by its id
    for row in rows:
        first, *others = [message["content"] for message in row["messages"]]
        asked = [part["text"] for part in first if part["type"] == "text"]
        shared[id(row["images"][0])].append(str([asked, others]))
    assert {len(conversations) for conversations in shared.values()} == {1, CONVERSATIONS}
    several = [conversations for conversations in shared.values() if len(conversations) > 1]
    # Of a single string there is not much to ask.
    assert sum(len({*conversations}) > 1 for conversations in several) > 0.8 * len(several)


def test_kinds_of_pictures_can_be_chosen():
    dataset = AnsweringDataset(10**6, kinds=("tiles", "table"))
    kinds = {turn.kind for number in range(HARD, HARD + 40) for turn in dataset[number]["turns"]}
    assert kinds == {"read_tiles", "table"}


@pytest.fixture(scope="module")
def rows():
    dataset = AnsweringDataset(10**6, kinds=("board", "tiles", "several"))  # of which all tasks are asked
    return [dataset[HARD + number] for number in range(16)]


@pytest.fixture
def shared(processor, rows):
    return AnsweringCollator(processor)(rows)


def test_a_batch_has_each_picture_once(shared, rows):
    distinct = {id(image) for row in rows for image in row["images"]}
    assert len(shared["tile_grids"]) == len(distinct) < sum(len(row["images"]) for row in rows)
    assert len(shared["pixel_values"]) == sum(num_tiles(*grid) for grid in shared["tile_grids"].tolist())


def test_branches_fill_most_of_the_rows(shared):
    assert shared["members"].float().mean() > 0.75
    assert shared["input_ids"].shape[1] % 32 == 0


def test_branches_are_answered_as_conversations_by_themselves(processor, shared, rows):
    """The same losses of all tasks, without the pictures' tokens being computed again for each question."""
    torch.manual_seed(0)
    model = build_model(processor).eval()
    model.set_attn_implementation({"vision_config": "eager", "text_config": "eager"})
    head, watch = ClueHead(model.config.text_config.hidden_size), Watch()
    layer = model.model.language_model.layers[LAYER]
    layer.register_forward_hook(head.see)
    for number in TOLD.values():
        model.model.language_model.layers[number].self_attn.register_forward_hook(partial(watch.see, number))
    batch = ConversationCollator(processor)([{"messages": row["messages"]} for row in rows])
    batch["labels"][:, 0] = -100
    pointed = find_pointers(processor.tokenizer, batch, rows, processor.image_token_id)
    unmoved = {number: Place(number, 0, 0, 0) for number in range(len(rows))}
    told = stack_pointers(pointed, unmoved, batch["input_ids"].shape[1])
    told["boxes"] = stack_clues(processor.tokenizer, batch["input_ids"], batch["labels"])
    shared_told, members = {name: shared.pop(name) for name in told}, shared.pop("members")
    assert members.sum() < 0.8 * batch["attention_mask"].sum()
    assert (shared["labels"] >= 0).sum() == (batch["labels"] >= 0).sum()
    with torch.no_grad():
        losses = []
        for each, asked in ((batch, told), (shared, shared_told)):
            answers = model(**each).loss
            where = {name: asked.pop(name) for name in ("looked_at", "looks")}
            looked = [watch.loss(number, asked["lookers"], **where) for number in TOLD.values()]
            losses.append(torch.stack([answers, *head.losses(**asked).values(), *looked]))
    assert losses[0].min() > 0
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)


def test_conversations_that_begin_in_different_ways_do_not_share(processor):
    ids = torch.tensor([[1, 9, 5], [2, 9, 5]])
    with pytest.raises(ValueError, match=r"different beginnings of conversations \[0, 1\]"):
        find_trees(ids, torch.ones_like(ids), 9, ["a", "a"])


def test_the_tokenizer_knows_the_words_and_reads_characters(processor):
    tokenizer = processor.tokenizer
    assert len(tokenizer) <= 780
    for string in ("OPEN", "7BKC", "1996"):
        assert len(tokenizer.tokenize(string)) == len(string)
    assert tokenizer.tokenize("<|ref|>") == ["<|ref|>"]
    for answer in ("<|ref|>the star<|/ref|><|det|>[[580, 0, 840, 883]]<|/det|>", "| A | B |\n| --- | --- |"):
        assert tokenizer.decode(tokenizer(answer)["input_ids"]) == answer


def test_an_edge_of_a_box_is_one_word(processor):
    tokens = processor.tokenizer.tokenize("[[580, 0, 840, 980], [20, 31, 40, 60]]")
    assert tokens == ["[", "[580,", " 0,", " 840,", " 980]", ",", "Ġ", "[20,", "Ġ", "3", "1", ",", " 40,", " 60]", "]"]
    assert processor.tokenizer.tokenize("20") == ["2", "0"]  # what is read in a picture


def test_clues_stand_at_boxes_and_names(processor):
    """At each token of a box that another one follows, at its name here and in the question, and before the answer."""
    question = "Find <|ref|>the red star<|/ref|>. What is in <|det|>[[20, 40, 60, 80]]<|/det|>?"
    answer = "<|ref|>the red star<|/ref|><|det|>[[120, 0, 560, 780], [60, 340, 980, 960]]<|/det|>"
    pieces = [processor.tokenizer.tokenize(each) for each in (question, answer)]
    tokens, asked = [token for piece in pieces for token in piece], len(pieces[0])
    found = dict(clues(tokens, [number >= asked for number in range(len(tokens))]))
    first, second = [6, 0, 28, 39], [3, 17, 49, 48]
    shown = [(tokens[number], edges) for number, edges in sorted(found.items())]
    of_first = ["Ġstar", "<|/ref|>", "<|det|>", "[", "[120,", " 0,", " 560,"]
    of_second = ["Ġ", "[60,", " 340,", " 980,"]
    assert shown[3:] == [*((token, first) for token in of_first), *((token, second) for token in of_second)]
    assert shown[:3] == [("Ġstar", first), ("<|/ref|>", first), ("?", first)]


def test_the_clue_head_reads_what_its_layer_gives():
    head, states = ClueHead(6), torch.randn(2, 5, 6)
    boxes = torch.full((2, 5, EDGES), IGNORED, dtype=torch.uint8)
    lookers = torch.tensor([[LOOKING, LOOKING, LOOKING], [0, 1, 0], [2, 4, 3]])
    shapes = torch.tensor([[IGNORED, IGNORED], [3, 5], [IGNORED, IGNORED]], dtype=torch.uint8)
    characters = torch.tensor([[IGNORED] * CHARACTERS, [IGNORED] * CHARACTERS, [7, 2, 0, 0]], dtype=torch.uint8)
    asked = {"boxes": boxes, "lookers": lookers, "shapes": shapes, "characters": characters}
    assert sum(head.losses(**asked).values()) == 0
    boxes[1, 3] = torch.tensor([3, 10, 20, 49])
    head.see(None, None, states)
    losses = head.losses(**asked)
    assert torch.allclose(losses["boxes"], box_loss(head.edges(states[1, 3]), boxes[1, 3]))
    assert torch.allclose(losses["shapes"], thing_loss(head.shapes(states[1, 4])[None], shapes[1:2].long()))
    read = head.characters(states[0, 3]).unflatten(-1, (CHARACTERS, -1))
    assert torch.allclose(losses["characters"], entropy(read, characters[2].long()))
    assert min(losses.values()) > 0


def test_places_near_the_right_one_are_nearly_right():
    labels = torch.tensor([[5, 20, 30, 49]])
    peaks = [
        torch.zeros(1, EDGES, PLACES).scatter(2, (labels[..., None] + off).clamp(max=49), 9.0) for off in (0, 1, 9)
    ]
    exact, near, far = (box_loss(each.flatten(1), labels) for each in peaks)
    assert exact < near < far - 1
    bell = -0.5 * (torch.arange(PLACES) - labels[0, :, None]) ** 2.0
    best = box_loss(bell.flatten()[None], labels)
    assert best < exact  # the least is the entropy of the bell
    torch.testing.assert_close(best, torch.distributions.Categorical(logits=bell).entropy().mean())


# Two tiles beside each other: a star in the first, a circle and a string in the second.
PARTS = (
    Shape("star", "red", 40, 30, 30),
    Shape("circle", "blue", 170, 90, 24),
    Text("7B", "black", "DejaVuSans", 150, 30, 20),
)
SCENE = Picture(PARTS, 2 * TILE, TILE, (240, 240, 240))


def test_tokens_show_shapes_in_the_whole_and_characters_in_the_tiles():
    """Places by hand: the whole is scaled by a half and 28 px down; tokens are 28 px wide, five to a row of four."""
    seen = shown(SCENE)
    assert SCENE.grid == (2, 1)
    assert seen.tokens[0] == [5 * 1 + 0]  # (20, 43)
    assert seen.tokens[1] == [5 * 2 + 3]  # (85, 73)
    tiles = 20 + 1  # after the whole and the separator; rows of nine
    assert seen.tokens["7B", 0] == [tiles + 9 * 1 + 5]  # (156, 30)
    assert seen.tokens["7B", 1] == [tiles + 9 * 1 + 6]  # (170, 30)
    assert seen.boxes == {(6, 7, 12, 20): [0], (35, 35, 41, 45): [1]}


def looked(processor, question, answer, about, kind="any"):
    """What each token of an answer, and of the question, is to look at; with the token that it writes."""
    pieces = [processor.tokenizer.tokenize(each) for each in (f"x{question}:", answer)]
    tokens, asked = [*pieces[0], *pieces[1], "<eos>"], len(pieces[0])
    answered = [number >= asked for number in range(len(tokens))]
    found = looks(tokens, answered, [Turn(kind, question, answer, about)], shown(SCENE))
    return [(tokens[look.number], tokens[look.number + 1], look) for look in found]


def pointed(processor, question, answer, about, kind="any", layer=LOOKING):
    """Of one layer the things alone."""
    found = looked(processor, question, answer, about, kind)
    return [(token, written, [*look.things]) for token, written, look in found if look.layer == layer]


def test_answers_are_written_from_what_they_are_about(processor):
    assert pointed(processor, "Where is it?", "left", (0,)) == [(":", "left", [0])]
    assert pointed(processor, "What color is 7?", "black", ("7B",)) == [(":", "black", [("7B", 0)])]
    in_chinese = pointed(processor, "描述这张图片。", "红色的星形、蓝色的圆形", (0, 1), "describe")
    assert {tuple(things) for _, _, things in in_chinese} == {(0, 1)}  # which word is whose is not told


def test_strings_are_read_from_where_the_last_character_was(processor):
    asked = "What is written?", "7B", ("7B",)
    assert pointed(processor, *asked) == [
        (":", "7", [("7B", 0)]),
        ("7", "B", [("7B", 0)]),
        ("B", "<eos>", [("7B", 1)]),
    ]
    followed = pointed(processor, *asked, layer=FOLLOWING)
    assert [things for _, _, things in followed] == [[("7B", 0)], [("7B", 1)], [NOTHING]]


def test_descriptions_go_on_from_the_last_thing(processor):
    """From words that show which it was: those for shapes, and what comes between."""
    asked = "Describe it.", "a red star, a blue circle", (0, 1), "describe"
    assert [(written, things) for _, written, things in pointed(processor, *asked)] == [
        ("a", [0]),
        (",", [0]),
        ("Ġa", [0]),
        ("Ġblue", [0]),
        ("<eos>", [1]),
    ]
    followed = pointed(processor, *asked, layer=FOLLOWING)
    assert [things for _, _, things in followed] == [[0], [1], [1], [1], [NOTHING]]


@pytest.mark.parametrize(
    ("question", "about"),
    [("Where is the star relative to the circle?", (0, 1)), ("Seen from the circle, where is the star?", (0, 1))],
)
def test_what_is_seen_from_something_is_looked_at_from_its_name(processor, question, about):
    found = pointed(processor, question, "left", about, "relation")
    assert {token: things for token, _, things in found} == {"Ġstar": [0], "Ġcircle": [1]}
    assert not pointed(processor, "星形在圆形的哪一边？", "左边", (0, 1), "relation")


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
        found[tokens[place]].append(*[tokens[word] for word in words])
    return dict(found)


def test_names_are_looked_at_by_color_and_by_shape(processor):
    """Where there is no word for one of them, the first token of all says so."""
    assert looks_for(processor, "What is the green shape?", "star", (0,)) == {":": ["Ġgreen", "x"]}
    assert looks_for(processor, "How many red stars?", "2", (0, 1), "count") == {":": ["Ġred", "Ġstars"]}
    assert looks_for(processor, "What color is B?", "red", ("B",), "character") == {":": ["x", "B"]}
    asked = "What does the red text say?", "7B", ("7B",), "read_tiles"
    assert looks_for(processor, *asked, askers=[":", "7"]) == {":": ["Ġred", "x"], "7": ["Ġred"]}
    refused = "<|ref|>the pink cross<|/ref|>", "There is no pink cross.", (NOTHING,), "absent", ["<|/ref|>", ":"]
    assert looks_for(processor, *refused) == {token: ["Ġpink", "Ġcross"] for token in ("<|/ref|>", ":")}
    assert not looks_for(processor, "绿色的是什么形状？", "星形", (0,))


@pytest.mark.parametrize(
    "question", ["Where is the star relative to the red cross?", "Seen from the red cross, where is the star?"]
)
def test_each_of_two_names_has_its_words(processor, question):
    looked_for = looks_for(processor, question, "left", (0, 1), "relation", ["Ġstar", "Ġcross"])
    assert looked_for == {"Ġstar": ["x", "Ġstar"], "Ġcross": ["Ġred", "Ġcross"]}


def test_descriptions_name_what_was_said_last(processor):
    answer = "a red star, a blue circle, a green cross"
    found = looks_for(processor, "Describe it.", answer, (0, 1, 2), "describe", [":", "Ġstar", "Ġcircle", "Ġa"])
    assert found == {
        ":": ["x", "x"],  # nothing was said before
        "Ġstar": ["Ġred", "Ġstar"],
        "Ġcircle": ["Ġblue", "Ġcircle"],
        "Ġa": ["Ġblue", "Ġcircle"],
    }


def test_words_are_looked_at_from_where_things_are(processor, rows):
    """The first layer is told at no other tokens than the second one, and at most of those."""
    batch = ConversationCollator(processor)([{"messages": row["messages"]} for row in rows])
    found = find_pointers(processor.tokenizer, batch, rows, processor.image_token_id)
    named, looked = (
        {(each.conversation, each.number) for each in found if each.layer == layer} for layer in (NAMING, LOOKING)
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
    watch, weights = Watch(), torch.rand(1, MOST_HEADS + 1, 4, 4)
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
