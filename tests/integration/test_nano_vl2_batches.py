"""Batches of nano-vl2's answering: shared pictures, the tokenizer's words, clues."""

from collections import defaultdict
from functools import partial

import pytest
import torch

from deepseek_vl_hf.models.deepseek_vl2.tiling import num_tiles
from deepseek_vl_hf.training.collator import ConversationCollator
from nano_vl2.cells import (
    CHARACTERS,
    EDGES,
    IGNORED,
    LABELS,
    PLACES,
    box_loss,
    entropy,
    label_views,
    stack_labels,
    thing_loss,
)
from nano_vl2.clues import LAYER, ClueHead, clues, stack_clues
from nano_vl2.dataset import CONVERSATIONS, AnsweringDataset
from nano_vl2.model import build_model, build_processor
from nano_vl2.pointers import LOOKING, TOLD, Watch, find_pointers, stack_pointers
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


def test_what_is_looked_at_is_labeled_as_in_looking(processor, rows, shared):
    """View by view; pictures that are not cut into tiles are two views of the whole."""
    assert not {*LABELS} & {*shared}
    labeled = AnsweringCollator(processor, cells=True)(rows)
    known = {}
    for row in {id(row["images"]): row for row in rows}.values():
        tiled = len(row["images"]) < 3
        for image, picture in zip(row["images"], row["pictures"], strict=True):
            views = processor.image_processor([image], tiling=tiled, return_tensors="pt")["pixel_values"]
            known[views.numpy().tobytes()] = label_views(picture, tiled)
    assert 2 in {len(labels[0]) for labels in known.values()} != {2}
    sizes = [num_tiles(*grid) for grid in labeled["tile_grids"].tolist()]
    expected = [known[views.numpy().tobytes()] for views in labeled["pixel_values"].split(sizes)]
    for name, labels in stack_labels(expected).items():
        assert torch.equal(labels, labeled[name]), name


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
    slots, counts = (torch.tensor(each, dtype=torch.uint8) for each in ([IGNORED, IGNORED, 3], [2, IGNORED, IGNORED]))
    told = {"shapes": shapes, "characters": characters, "slots": slots, "counts": counts}
    asked = {"boxes": boxes, "lookers": lookers, **told}
    assert head.losses(**asked) == dict.fromkeys(("boxes", *told), 0)  # nothing was seen
    boxes[1, 3] = torch.tensor([3, 10, 20, 49])
    head.see(None, None, states)
    losses = head.losses(**asked)
    assert torch.allclose(losses["boxes"], box_loss(head.edges(states[1, 3]), boxes[1, 3]))
    assert torch.allclose(losses["shapes"], thing_loss(head.shapes(states[1, 4])[None], shapes[1:2].long()))
    read = head.characters(states[0, 3]).unflatten(-1, (CHARACTERS, -1))
    assert torch.allclose(losses["characters"], entropy(read, characters[2].long()))
    assert torch.allclose(losses["slots"], -head.slots(states[0, 3]).log_softmax(-1)[3])
    assert torch.allclose(losses["counts"], -head.counts(states[0, 2]).log_softmax(-1)[2])
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
