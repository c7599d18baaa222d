"""What the plugin of lmms-eval does without it: questions, settings, batches, scores."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from transformers import AutoProcessor

from deepseek_vl_hf.evaluation import lmms_plugin, tasks_path
from deepseek_vl_hf.evaluation.questions import MAX_NEW_TOKENS, batches_of, conversation_of, settings_of
from deepseek_vl_hf.evaluation.scores import metrics_of, scored_elsewhere
from deepseek_vl_hf.evaluation.tasks import refcoco
from deepseek_vl_hf.models.deepseek_vl2.tiling import CANDIDATE_RESOLUTIONS, ENLARGED_RESOLUTIONS

ROOT = Path(__file__).parents[2]
PICTURE = Image.new("RGB", (200, 100))


def question(*parts):
    return [{"role": "user", "content": list(parts)}]


def image(picture=PICTURE):
    return {"type": "image", "url": picture}


def text(words):
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("asked", "generate"),
    [
        ({}, {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS}),
        ({"max_new_tokens": 16, "temperature": 0, "do_sample": True}, {"do_sample": False, "max_new_tokens": 16}),
        # MM-Vet's: a temperature beside the wish not to draw.
        ({"temperature": 0.2, "top_p": 1.0, "num_beams": 1, "do_sample": False}, {"do_sample": False, "num_beams": 1}),
        ({"temperature": 0.7, "top_p": None}, {"do_sample": True, "temperature": 0.7}),
        ({"do_sample": True, "top_k": 5}, {"do_sample": True, "top_k": 5}),
    ],
)
def test_answers_are_greedy_unless_a_temperature_is_asked_for(asked, generate):
    assert settings_of(asked).generate == {"max_new_tokens": MAX_NEW_TOKENS, **generate}


@pytest.mark.parametrize(
    ("until", "stops"),
    [("A", ("A",)), (["A", "", "B"], ("A", "B")), ([], ()), (None, ()), (["\n\n"], ()), (["\n\n", "A"], ("\n\n", "A"))],
)
def test_texts_that_end_an_answer(until, stops):
    """The blank line alone is lmms-eval's own default and would cut paragraphs off."""
    assert settings_of({"until": until}).stops == stops


def test_what_nothing_reads_is_named():
    settings = settings_of({"image_aspect_ratio": "original", "max_new_tokens": 4, "a": 1, "b": None})
    assert settings.ignored == ("a", "image_aspect_ratio")
    with pytest.raises(TypeError, match=r"until is 5; expected a text or a list"):
        settings_of({"until": 5})


def test_questions_in_the_processors_shape():
    messages = question(image(), text("Which of "), image("b.png"), text(" is red?"))
    (turn,) = conversation_of(messages)
    assert [part.get("text", part.get("image")) for part in turn["content"]] == [
        *(PICTURE, "Which of "),
        *("b.png", " is red?"),
    ]
    (turn,) = conversation_of(messages, image_newline=True)
    assert [part["text"] for part in turn["content"] if part["type"] == "text"] == ["\n", "Which of ", "\n", " is red?"]
    assert conversation_of(question(text("2 + 2?"))) == [{"role": "user", "content": [text("2 + 2?")]}]


def test_a_system_prompt_takes_the_place_of_the_tasks():
    messages = [{"role": "system", "content": "Be brief."}, *question(text("Hm?"))]
    assert [turn["content"] for turn in conversation_of(messages)] == ["Be brief.", [text("Hm?")]]
    for prompt in ("Be long.", ""):
        found = conversation_of(messages, system_prompt=prompt)
        assert [turn["role"] for turn in found] == ["system", "user"]
        assert found[0]["content"] == prompt


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_videos_and_sound_are_refused(kind):
    with pytest.raises(ValueError, match=rf"Found a part of type '{kind}' in a question; expected text and images"):
        conversation_of(question({"type": kind, "url": "a"}))


def test_batches_hold_questions_that_are_asked_alike():
    short, long = {"max_new_tokens": 4}, {"max_new_tokens": 9}
    asked, lengths = [short, long, short, short, long], [1, 5, 3, 2, 6]
    assert list(batches_of(asked, lengths, 2)) == [[2, 3], [0], [4, 1]]
    assert list(batches_of(asked, lengths, 8)) == [[2, 3, 0], [4, 1]]


def test_tasks_that_are_scored_elsewhere_are_named():
    assert "--tasks docvqa_val." in scored_elsewhere("docvqa_test", ["submission"])
    assert "OPENAI_API_KEY" in scored_elsewhere("mmvet", ["gpt_eval_score"])
    assert "mmbench_en_dev_static" in scored_elsewhere("mmbench_en_dev", ["gpt_eval_score", "submission"])
    assert scored_elsewhere("mathvista_testmini_cot", ["llm_as_judge_eval"]) is not None
    for task, metrics in {
        "textvqa_val": ["exact_match", "submission"],
        "mmbench_en_dev_static": ["gpt_eval_score"],
    }.items():
        assert scored_elsewhere(task, metrics) is None
    assert scored_elsewhere("anything", []) is None


def test_metrics_are_read_from_the_task_behind_a_request():
    class Task:
        config = SimpleNamespace(metric_list=[{"metric": "anls"}, {"metric": "submission"}])

        def doc_to_messages(self):
            """As a request of lmms-eval carries it."""

    assert metrics_of(Task().doc_to_messages) == ["anls", "submission"]
    assert metrics_of(len) == metrics_of(lambda: None) == []


def test_every_expression_is_a_row():
    datasets = pytest.importorskip("datasets")
    rows = [{"id": 0, "answer": ["a fox", "the left one"]}, {"id": 1, "answer": []}, {"id": 2, "answer": ["it"]}]
    found = refcoco.one_row_per_expression(datasets.Dataset.from_list(rows))
    assert [(row["id"], row["expression"]) for row in found] == [(0, "a fox"), (0, "the left one"), (2, "it")]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("<|ref|>a fox<|/ref|><|det|>[[50, 200, 549, 799]]<|/det|>", 1.0),
        ("<|det|>[[50, 200, 549, 799], [0, 0, 1, 1]]<|/det|>", 1.0),
        ("<|det|>[[0, 0, 1, 1], [50, 200, 549, 799]]<|/det|>", 0.0),
        ("<|det|>[[50, 200, 280, 799]]<|/det|>", 0.0),
        ("<|ref|>a fox<|/ref|><|det|>[[50, 200", 0.0),
        ("It is on the left.", 0.0),
    ],
)
def test_the_first_box_counts(answer, right):
    row = {"image": PICTURE, "bbox": [10.0, 20.0, 100.0, 60.0], "expression": "a fox"}
    assert refcoco.score(row, [answer]) == {"refcoco_ACC@0.5": right}
    assert refcoco.question(row) == "<|ref|>a fox<|/ref|>"


def test_overlap_of_boxes():
    assert refcoco.overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert refcoco.overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert refcoco.overlap((0, 0, 10, 10), (20, 20, 30, 30)) == refcoco.overlap((1, 1, 1, 1), (1, 1, 1, 1)) == 0


def test_the_enlarged_candidates(vl2):
    """All of at most 18 tiles, as the paper's footnote says: 58."""
    assert len(set(ENLARGED_RESOLUTIONS)) == len(ENLARGED_RESOLUTIONS) == 58
    assert set(CANDIDATE_RESOLUTIONS) < set(ENLARGED_RESOLUTIONS)
    inputs = AutoProcessor.from_pretrained(vl2.original)(
        text="<image>\nHm?",
        images=[Image.new("RGB", (1100, 2200))],
        candidate_resolutions=ENLARGED_RESOLUTIONS,
        return_tensors="pt",
    )
    assert inputs["tile_grids"].tolist() == [[3, 6]]


def test_what_pyproject_says_of_the_plugin():
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = f'{lmms_plugin.NAME} = "{lmms_plugin.__name__}:{lmms_plugin.manifest.__name__}"'
    assert f'[project.entry-points."lmms_eval.models"]\n{line}\n' in declared
    assert '"evaluation/tasks/*yaml"' in declared
    assert len(list(tasks_path().glob("*_vl2.yaml"))) == 9
