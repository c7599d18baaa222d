"""The rule against repetitions, as answers are given: whatever the prompt's length, and anew for each batch."""

import pytest
import torch

from deepseek_vl_hf.models.repetition import NgramBan
from deepseek_vl_hf.ocr.pages import Document
from deepseek_vl_hf.ocr.repetition import Repetition

VOCABULARY = 6


class Tokenizer:
    def convert_tokens_to_ids(self, tokens):
        return {"<td>": 4, "</td>": 5}[tokens] if isinstance(tokens, str) else [4, 5][: len(tokens)]


def banned(processor, ids):
    scores = processor(torch.tensor(ids), torch.zeros(len(ids), VOCABULARY))
    return [[token for token in range(VOCABULARY) if row[token] == -torch.inf] for row in scores]


def steps(processor, prompt, answer):
    """What is banned before each token of an answer, and after the last."""
    return [banned(processor, [prompt + answer[:count]])[0] for count in range(len(answer) + 1)]


@pytest.fixture
def processor():
    (processor,) = Repetition(2, 4).processors(Tokenizer())
    return processor


def test_only_the_answer_counts(processor):
    """The prompt holds 1 2; the answer may have that as well, once within the window."""
    assert steps(processor, [1, 2, 1], [1, 2, 1]) == [[], [], [], [2]]


def test_what_left_the_window_may_come_again(processor):
    assert steps(processor, [0], [1, 2, 3, 0, 3, 1])[-1] == []
    (wide,) = Repetition(2, 6).processors(Tokenizer())
    assert steps(wide, [0], [1, 2, 3, 0, 3, 1])[-1] == [2]


def test_cells_of_tables_may_repeat(processor):
    assert steps(processor, [0], [1, 4, 1])[-1] == []


@pytest.mark.parametrize("prompt", [[1, 2], [1, 2, 3, 0, 1], [0]])
def test_each_batch_begins_anew(processor, prompt):
    """A batch that is halved is asked again, with prompts of any length; here the answer before was three tokens."""
    steps(processor, [1, 2], [1, 2, 1])
    assert steps(processor, prompt, [1, 2, 1]) == [[], [], [], [2]]


def test_rows_are_judged_alone(processor):
    banned(processor, [[0], [0]])
    for count in (1, 2, 3):
        found = banned(processor, [[0, 1, 2, 1][: count + 1], [0, 1, 2, 3][: count + 1]])
    assert found == [[2], []]


def test_it_is_the_models_rule():
    choose = torch.Generator().manual_seed(0)
    prompt, answer = [1, 2, 3], torch.randint(0, 3, (40,), generator=choose).tolist()
    (processor,) = Repetition(3, 9).processors(Tokenizer())
    expected = steps(NgramBan(3, 9, [4, 5], prompt_length=3), prompt, answer)
    assert any(expected)
    assert steps(processor, prompt, answer) == expected


def test_values_of_the_authors():
    assert Document("a.png").repetition == Repetition(30, 90)
    assert Document("a.pdf", 3, is_pdf=True).repetition == Repetition(20, 50)
    assert Repetition(0, 90).processors(Tokenizer()) == []
