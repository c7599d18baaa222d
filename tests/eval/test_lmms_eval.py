"""lmms-eval's own command with this package's model and tasks, on data sets that are made here."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from addresses import free_port
from deepseek_vl_hf.evaluation import tasks_path
from deepseek_vl_hf.evaluation.scores import metrics_of, scored_elsewhere
from deepseek_vl_hf.nano.folder import nano_path
from nano.dataset import example
from nano.drawing import draw_scene

pytestmark = [
    pytest.mark.lmms_eval,
    pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed; make test-eval installs it"),
]

HERE = Path(__file__).parent
QUESTIONS = 100
METRICS = {"seed_image", "seed_all", "relaxed_overall", "average"}  # which the page names beside their tasks
NANO_TASK = """\
task: nano_held_out
dataset_path: {data}
dataset_kwargs:
  load_from_disk: true
test_split: test
output_type: generate_until
doc_to_visual: !function nano_task.picture
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 32
  until: ["Question:"]
  image_aspect_ratio: original
process_results: !function nano_task.score
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
TEXT_TASK = """\
task: text_alone
dataset_path: {data}
dataset_kwargs:
  load_from_disk: true
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 8
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
GROUNDING_TASK = """\
include: {template}
task: places
dataset_path: {data}
dataset_kwargs:
  load_from_disk: true
test_split: test
"""


def on_disk(rows, folder):
    DatasetDict({"test": Dataset.from_list(rows)}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def questions():
    """The first held-out questions, each with its picture."""
    rows, number = [], 0
    while len(rows) < QUESTIONS:
        one = example("held-out", number)
        picture = draw_scene(one.scene, one.view)
        rows += [{"image": picture, "question": turn.question, "answer": turn.answer} for turn in one.turns]
        number += 1
    return rows[:QUESTIONS]


@pytest.fixture(scope="session")
def tasks(questions, tmp_path_factory):
    """A folder with the task files, beside the data sets that they name."""
    folder = tmp_path_factory.mktemp("tasks")
    data = on_disk(questions, folder / "nano")
    (folder / "nano.yaml").write_text(NANO_TASK.format(data=data), encoding="utf-8")
    shutil.copy(HERE / "nano_task.py", folder)
    data = on_disk([{"question": "How are you?", "answer": "well"}] * 3, folder / "text")
    (folder / "text.yaml").write_text(TEXT_TASK.format(data=data), encoding="utf-8")
    box, phrases = [10.0, 20.0, 100.0, 60.0], ["the left one", "the fox"]
    places = [{"image": Image.new("RGB", (200, 100), "red"), "answer": phrases, "bbox": box}]
    data = on_disk(places, folder / "places")
    template = tasks_path() / "refcoco_vl2_template_yaml"
    (folder / "places.yaml").write_text(GROUNDING_TASK.format(template=template, data=data), encoding="utf-8")
    return folder


def run(folder, **options):
    """lmms-eval's log; a run that failed ends with status 0, too."""
    arguments = [part for name, value in options.items() for part in (f"--{name}", *([] if value is True else [value]))]
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "home")}
    log = folder / "log"
    with log.open("w", encoding="utf-8") as output:
        subprocess.run(
            [sys.executable, "-m", "lmms_eval", *map(str, arguments)],
            cwd=folder,
            env=variables,
            stdout=output,
            stderr=output,
            timeout=600,
            check=False,
        )
    return log.read_text(encoding="utf-8")


def evaluate(folder, tasks, task, **options):
    """The task's figures, its answers in order, and the log."""
    out = folder / "out"
    log = run(folder, tasks=task, include_path=tasks, output_path=out, **options, log_samples=True)
    results = sorted(out.rglob("*_results.json"))
    assert len(results) == 1, log[-6000:]
    (samples,) = out.rglob(f"*_samples_{task}.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    answers = [row["filtered_resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]
    return json.loads(results[0].read_text(encoding="utf-8"))["results"][task], answers, log


@pytest.fixture(scope="session")
def direct_answers(questions):
    """Each question by itself, through the Auto classes."""
    processor = AutoProcessor.from_pretrained(nano_path())
    model = AutoModelForImageTextToText.from_pretrained(nano_path(), dtype=torch.float32)
    answers = []
    for row in questions:
        content = [{"type": "image", "image": row["image"]}, {"type": "text", "text": "\n" + row["question"]}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(ids, skip_special_tokens=True).strip())
    return answers


@pytest.mark.parametrize("batch_size", [1, 8])
def test_answers_and_score_are_those_of_direct_calls(questions, direct_answers, tasks, tmp_path, batch_size):
    arguments = "pretrained=nano,dtype=float32,image_newline=true"
    figures, answers, log = evaluate(
        tmp_path, tasks, "nano_held_out", model="deepseek_vl_hf", model_args=arguments, batch_size=batch_size
    )
    assert answers == direct_answers
    right = [answer == row["answer"] for answer, row in zip(direct_answers, questions, strict=True)]
    assert figures["right,none"] == pytest.approx(sum(right) / QUESTIONS)
    assert sum(right) > 0.85 * QUESTIONS  # nano's own share is 0.95; wrong prompts or pixels give less than a half
    assert "nano_held_out asks for image_aspect_ratio, which" in log


def test_questions_without_pictures(tasks, tmp_path):
    arguments = "pretrained=nano,dtype=float32"
    figures, answers, log = evaluate(
        tmp_path, tasks, "text_alone", model="deepseek_vl_hf", model_args=arguments, batch_size=2
    )
    assert len(answers) == 3
    assert len(set(answers)) == 1
    assert figures["exact_match,none"] == 0
    assert "leaves aside" not in log


def test_the_same_through_the_server(direct_answers, tasks, tmp_path):
    port = free_port()
    with (tmp_path / "server").open("w") as output:
        command = [Path(sys.executable).with_name("deepseek-vl"), "serve", "nano", "--dtype", "float32"]
        server = subprocess.Popen([*command, "--port", str(port)], stdout=output, stderr=output)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        address = f"model=nano,base_url=http://127.0.0.1:{port}/v1,api_key=none,timeout=600,num_concurrent=1"
        _, answers, _ = evaluate(tmp_path, tasks, "nano_held_out", model="openai", model_args=address)
    finally:
        server.terminate()
        server.wait()
    same = sum(one == other for one, other in zip(answers, direct_answers, strict=True))
    assert same >= 0.95 * QUESTIONS  # its prompts have no line break after the picture


def wait_for(address, server):
    for _ in range(240):
        assert server.poll() is None
        try:
            with urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(address)


def test_grounding_runs_on_a_model_without_training(vl2, tasks, tmp_path):
    """The prompts, the enlarged candidates and the scoring; random weights name no place, so nothing is right."""
    arguments = f"pretrained={vl2.original},dtype=float32,candidate_resolutions=infovqa,image_newline=true"
    figures, answers, _ = evaluate(
        tmp_path, tasks, "places", model="deepseek_vl_hf", model_args=arguments, gen_kwargs="max_new_tokens=4"
    )
    assert len(answers) == 2
    assert figures["refcoco_ACC@0.5,none"] == 0


def test_grounding_scores_answers_written_by_hand(tasks, tmp_path):
    """There are no small trained weights that name places, so these are no model's answers."""
    from lmms_eval.api.task import ConfigurableMessagesTask  # noqa: PLC0415
    from lmms_eval.utils import load_yaml_config  # noqa: PLC0415

    task = ConfigurableMessagesTask(config=load_yaml_config(str(tasks / "places.yaml")), model_name="deepseek_vl_hf")
    assert metrics_of(task.doc_to_messages) == ["refcoco_ACC@0.5"]
    rows = list(task.test_docs())
    assert [row["expression"] for row in rows] == ["the left one", "the fox"]
    (turn,) = task.doc_to_messages(rows[0])
    assert [part["type"] for part in turn["content"]] == ["image", "text"]
    assert turn["content"][1]["text"] == "<|ref|>the left one<|/ref|>"
    right = "<|ref|>the left one<|/ref|><|det|>[[50, 200, 549, 799]]<|/det|>"  # 10, 20, 110, 80 in 200 x 100 pixels
    half = "<|ref|>the left one<|/ref|><|det|>[[50, 200, 299, 799]]<|/det|>"
    scores = [
        task.process_results(row, [text])["refcoco_ACC@0.5"] for row, text in zip(rows, (right, half), strict=True)
    ]
    assert scores == [1.0, 0.0]


def test_every_task_file_is_found():
    from lmms_eval.tasks import TaskManager  # noqa: PLC0415

    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    splits = {"refcoco": ("val", "testA", "testB"), "refcoco+": ("val", "testA", "testB"), "refcocog": ("val", "test")}
    names = {f"{name}_bbox_rec_{split}_vl2" for name, found in splits.items() for split in found}
    assert set(manager.all_subtasks) == names
    assert manager.all_groups == ["refcoco_bbox_rec_vl2"]


def test_the_tasks_of_the_page_exist_and_those_that_are_scored_elsewhere_say_so():
    from lmms_eval.tasks import TaskManager  # noqa: PLC0415
    from lmms_eval.utils import load_yaml_config  # noqa: PLC0415

    page = (HERE.parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    elsewhere, tables = page.partition("## Tasks that are not scored here")[2].split("## The papers' tables")
    manager = TaskManager(include_path=str(tasks_path()))

    def tasks_in(text, column):
        cells = [line.split("|")[column] for line in text.splitlines() if line.startswith("| ")]
        names = {name for cell in cells for name in re.findall(r"`([\w+]+)`", cell)} - METRICS
        assert names <= set(manager.all_subtasks)
        return names

    def said(task):
        config = load_yaml_config(manager.task_index[task]["yaml_path"], mode="simple")
        return scored_elsewhere(task, [entry["metric"] for entry in config["metric_list"]])

    not_here = tasks_in(elsewhere.partition("## Grounding")[0], 1)
    assert len(not_here) == 12
    assert all(map(said, not_here))
    named = tasks_in(tables.partition("## What was run")[0], 2)
    assert len(named) == 31
    assert {task for task in named if said(task)} == named & not_here


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("pretrained=nano,color=red", "Found model arguments that do not exist: color"),
        ("dtype=float32", "Found no model; expected --model_args pretrained=path/to/model"),
        ("pretrained=nano,dtype=half-float", "Found dtype=half-float; expected float32"),
        ("pretrained=nano,tiling=false", "Found tiling for a deepseek_vl_hybrid; it is for DeepSeek-VL2"),
    ],
)
def test_wrong_model_arguments_are_named(tasks, tmp_path, arguments, said):
    log = run(tmp_path, model="deepseek_vl_hf", model_args=arguments, tasks="nano_held_out", include_path=tasks)
    assert said in log
