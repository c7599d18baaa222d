"""`deepseek-vl describe --output`: folders, batches, broken pictures, and runs that go on where one was interrupted."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from deepseek_vl_command.arguments import parse
from deepseek_vl_hf import Chat
from deepseek_vl_hf.chat import batch, unasked
from deepseek_vl_hf.chat.batch import ask_each
from deepseek_vl_hf.cli import main, many
from deepseek_vl_hf.cli.answers import FIELDS, AnswerFile
from family import IMAGES, VL2_FAMILIES

PICTURES = Path("examples/pictures").resolve()
GREEDY = {"do_sample": False, "max_new_tokens": 6}
COUNT = ["-p", "How many shapes are there?", "--temperature", "0"]
ASKED = {"model": "nano", "prompt": "What?", "settings": {"temperature": 0.5}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three pictures, one more in a folder below, hidden ones, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "more" / ".hidden").mkdir(parents=True)
    for name in ("a.png", "c.PNG", "more/d.png", ".e.png", "more/.hidden/f.png"):
        shutil.copy(PICTURES / "shapes.png", tmp_path / "pictures" / name)
    Image.new("RGB", (40, 30), "white").save("pictures/b.jpg")
    Path("pictures/notes.txt").write_text("no picture", encoding="utf-8")
    return Path("pictures")


def lines_of(name):
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


def by_name(records):
    return {record["picture"]: record["answer"] for record in records}


def one_by_one(chat, text, pictures):
    answers = []
    for picture in pictures:
        chat.new()
        answers.append((chat.ask(text, [picture]), chat.figures.new_tokens, chat.figures.ended))
    return answers


def in_a_batch(answers):
    assert [answer.failure for answer in answers] == [None] * len(answers)
    return [(answer.text, answer.new_tokens, answer.ended) for answer in answers]


@pytest.mark.parametrize("name", ["vl", *VL2_FAMILIES])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_batches_answer_as_one_by_one(families, name, penalty):
    """DeepSeek-VL2's pictures have different tiles, so that their prompts differ in length."""
    chat = Chat(families[name].model, families[name].processor, repetition_penalty=penalty, **GREEDY)
    pictures = [str(path) for path in sorted(IMAGES.iterdir())]
    if name != "vl":
        lengths, _ = chat.processor.num_tokens_of_sizes([Image.open(path).size[::-1] for path in pictures], tiling=True)
        assert len(set(lengths)) >= 3
    expected = one_by_one(chat, "What is this?", pictures)
    assert len(set(expected)) > 1 or name == "vl"
    assert in_a_batch(ask_each(chat, "What is this?", pictures)) == expected


def test_nanos_batches_answer_as_one_by_one():
    """Answers of different lengths, with a system prompt of its own."""
    chat = Chat.from_pretrained("nano", do_sample=False, system="")
    pictures = [PICTURES / f"{name}.png" for name in ("shapes", "words", "chart")]
    answers = in_a_batch(ask_each(chat, "Describe the picture.", pictures))
    assert len({tokens for _, tokens, _ in answers}) == 3
    assert answers == one_by_one(chat, "Describe the picture.", pictures)


def test_without_a_question(folder, capsys):
    """As one by one; the file says what was asked, and goes on with that alone."""
    shutil.copy(PICTURES / "words.png", "pictures/a.png")
    shutil.copy(PICTURES / "chart.png", "pictures/more/e.png")
    Path("pictures/b.jpg").unlink()
    words = ["describe", "pictures", "--output", "answers.jsonl", "--resume"]
    assert main(words) == main([*words, "--recursive"]) == 0
    assert [record["answer"] for record in lines_of("answers.jsonl")] == [
        *("OPEN, 7BKC, 1276", "a red circle, a green star, a blue square, an orange triangle"),
        *("a red circle, a green star, a blue square, an orange triangle", "SALE"),
    ]
    assert {record["prompt"] for record in lines_of("answers.jsonl")} == {"Describe the picture. | Read all the text."}
    assert main([*words, "-p", "Describe the picture."]) == 1
    assert "record 1, answers something else: prompt" in capsys.readouterr().err


def test_each_answer_has_its_own_room(vl2, monkeypatch):
    """The longest prompt leaves room for fewer tokens than the others have."""
    chat = Chat(vl2.model, vl2.processor, do_sample=False, repetition_penalty=1.0, max_new_tokens=6)
    monkeypatch.setattr(vl2.model.generation_config, "eos_token_id", 0)
    pictures = [str(IMAGES / name) for name in ("wide.png", "square.png")]
    chat.ask("What?", pictures[:1])
    longest = chat.figures.prompt_tokens
    chat.new()
    chat.ask("What?", pictures[1:])
    assert chat.figures.prompt_tokens < longest
    monkeypatch.setattr(Chat, "context", longest + 2)
    answers = in_a_batch(ask_each(chat, "What?", pictures))
    assert [tokens for _, tokens, _ in answers] == [2, 6]
    assert answers == one_by_one(chat, "What?", pictures)


def test_what_fails_in_a_batch_leaves_the_others(vl, monkeypatch):
    """A picture that is none, and one that makes the model fail: the batch is halved until it is alone."""
    chat = Chat(vl.model, vl.processor, **GREEDY)
    pictures = [str(path) for path in sorted(IMAGES.iterdir())]
    expected = one_by_one(chat, "What?", pictures)
    generate, sizes = batch._generate, []
    marked = Image.new("RGB", (77, 7))

    def failing(chat, asked, options, measured):
        sizes.append(len(asked))
        if any(each.picture.size == marked.size for each in asked):
            raise ValueError("The model's logits hold NaN.")
        return generate(chat, asked, options, measured)

    monkeypatch.setattr(batch, "_generate", failing)
    first, second, *rest = ask_each(chat, "What?", [__file__, marked, *pictures])
    assert "No image could be read" in str(first.failure)
    assert str(second.failure) == "The model's logits hold NaN."
    assert in_a_batch(rest) == expected
    assert sizes == [6, 3, 1, 2, 3]


def test_memory_that_does_not_suffice_for_a_batch(vl, monkeypatch):
    chat = Chat(vl.model, vl.processor, **GREEDY)
    picture = str(IMAGES / "square.png")
    generate, most = batch._generate, 1

    def small(chat, asked, options, measured):
        if len(asked) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(chat, asked, options, measured)

    monkeypatch.setattr(batch, "_generate", small)
    assert len(in_a_batch(ask_each(chat, "What?", [picture] * 3))) == 3
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        ask_each(chat, "What?", [picture])


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_folder_as_json_lines(folder, capsys, monkeypatch, size):
    sizes = []
    monkeypatch.setattr(unasked, "ask_each", lambda *given: sizes.append(len(given[2])) or ask_each(*given))
    words = ["describe", "pictures", "--output", "answers.jsonl", "--batch-size", str(size), *COUNT]
    assert main(words) == 0
    records = lines_of("answers.jsonl")
    assert [record["picture"] for record in records] == ["pictures/a.png", "pictures/b.jpg", "pictures/c.PNG"]
    assert [records[0]["answer"], records[2]["answer"]] == ["4", "4"]
    assert records[0] == {
        **{"picture": "pictures/a.png", "answer": "4", "new_tokens": 3, "ended": "eos"},
        **{"model": "nano", "prompt": COUNT[1], "settings": {"temperature": 0.0}},
    }
    assert sizes == {1: [1, 1, 1], 2: [2, 1], 8: [3]}[size]
    assert capsys.readouterr() == ("", "3 of 3 pictures described in answers.jsonl.\n")


def test_a_recursive_folder_as_csv(folder, capsys):
    Path("question.txt").write_text('\ufeffHow many\nshapes, "are" there?\n\n', encoding="utf-8")
    words = ["describe", "pictures", "pictures/a.png", "--recursive", "--output", "answers.csv", "--temperature", "0"]
    assert main([*words, "--prompt-file", "question.txt"]) == 0
    with Path("answers.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert tuple(rows[0]) == FIELDS
    assert [row["picture"][9:] for row in rows] == ["a.png", "b.jpg", "c.PNG", "more/d.png"]
    assert {row["prompt"] for row in rows} == {'How many\nshapes, "are" there?'}
    assert json.loads(rows[0]["settings"]) == {"temperature": 0.0}
    assert capsys.readouterr().err == "4 of 4 pictures described in answers.csv.\n"


def test_broken_pictures_are_listed_at_the_end(folder, capsys):
    """One is known before the model is loaded, one when it is decoded; both are tried again, and then are whole."""
    whole = Path("pictures/a.png").read_bytes()
    Path("pictures/a.png").write_bytes(whole[: len(whole) // 2])
    Path("pictures/c.PNG").write_text("none", encoding="utf-8")
    words = ["describe", "pictures", "missing.png", "--output", "answers.jsonl", *COUNT]
    assert main(words) == 1
    assert [record["picture"] for record in lines_of("answers.jsonl")] == ["pictures/b.jpg"]
    *faults, summary, last = capsys.readouterr().err.splitlines()
    assert sorted(line.split(": ")[1] for line in faults) == ["missing.png", "pictures/a.png", "pictures/c.PNG"]
    assert "There is no file 'missing.png'" in "".join(faults)
    assert summary == "1 of 4 pictures described in answers.jsonl."
    assert last == "error: 3 not described; --resume tries them again."
    for name in ("pictures/a.png", "pictures/c.PNG", "missing.png"):
        Path(name).write_bytes(whole)
    assert main([*words, "--resume"]) == 0
    assert [record["answer"] for record in lines_of("answers.jsonl")[1:]] == ["4", "4", "4"]
    assert capsys.readouterr().err == "4 of 4 pictures described in answers.jsonl, 1 of them from before.\n"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_run_goes_on_where_it_was_interrupted(folder, capsys, monkeypatch, suffix):
    """Ctrl-C in the second batch: the first is there, whole, and is not asked about again."""
    words = ["describe", "pictures", "--recursive", "--output", f"answers.{suffix}", "--batch-size", "2", *COUNT]
    assert main([*words[:4], f"whole.{suffix}", *words[5:]]) == 0
    asked = []

    def interrupted(chat, text, pictures):
        asked.append(len(pictures))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask_each(chat, text, pictures)

    monkeypatch.setattr(unasked, "ask_each", interrupted)
    capsys.readouterr()
    assert main(words) == 130
    assert capsys.readouterr().err == (
        f"2 pictures have their answers in answers.{suffix}; the same command with --resume goes on.\nstopped\n"
    )
    written, whole = Path(f"answers.{suffix}").read_bytes(), Path(f"whole.{suffix}").read_bytes()
    assert whole.startswith(written)
    assert whole[len(written) - 1 : len(written)] == b"\n"
    assert main(words) == 1
    assert f"answers.{suffix} is there already. Pass --resume" in capsys.readouterr().err
    assert Path(f"answers.{suffix}").read_bytes() == written
    assert main([*words, "--resume"]) == 0
    assert asked == [2, 2, 2]
    assert Path(f"answers.{suffix}").read_bytes() == whole
    monkeypatch.setattr(many, "load_chat", None)  # there is nothing left to ask
    assert main([*words, "--resume"]) == 0
    assert Path(f"answers.{suffix}").read_bytes() == whole


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_what_a_crash_left_is_cut_off(tmp_path, suffix):
    """Wherever the file is torn: all whole records count, and the file becomes what it would have been."""
    path = tmp_path / f"answers.{suffix}"
    answers = [
        {"picture": f"{number} ä\udcff.png", "answer": f'two\nlines, "{number}" ü', "new_tokens": 3, "ended": "eos"}
        for number in range(3)
    ]
    with AnswerFile(path, ASKED, resume=False) as file:
        ends = [file.write([answer]) or path.stat().st_size for answer in answers]
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with AnswerFile(path, ASKED, resume=True) as file:
            done = [answer["picture"] in file for answer in answers]
            assert done == [length >= end for end in ends]
            file.write([answer for answer in answers if answer["picture"] not in file])
        if not all(done):
            assert path.read_bytes() == whole


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    answer = {"picture": "a.png", "answer": "4", "new_tokens": 2, "ended": "eos"}
    with AnswerFile(path, ASKED, resume=False) as file:
        file.write([answer])
        before = path.read_bytes()

        class Full:
            def write(self, data):
                real.write(bytes(data[:20]))
                raise OSError(28, "No space left on device")

            def truncate(self, size):
                real.truncate(size)

        real, file._file = file._file, Full()
        with pytest.raises(OSError, match="No space left"):
            file.write([{**answer, "picture": "b.png"}])
        assert path.read_bytes() == before
        assert "b.png" not in file
        file._file = real


OTHERS = [
    ({"model": "other"}, "model 'other' there, 'nano' here"),
    ({"prompt": "Why?"}, "prompt 'Why?' there, 'What?' here"),
    ({"settings": {"temperature": 0.7}}, "temperature 0.7 there, 0.5 here"),
    ({"settings": {}}, "temperature not given there, 0.5 here"),
    ({"settings": {"temperature": 0.5, "system": "S"}}, "system 'S' there, not given here"),
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_answers_to_something_else_are_not_gone_on_with(tmp_path, suffix, other, message):
    path = tmp_path / f"answers.{suffix}"
    with AnswerFile(path, {**ASKED, **other}, resume=False) as file:
        file.write([{"picture": "a.png", "answer": "4", "new_tokens": 2, "ended": "eos"}])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=re.escape(f"record 1, answers something else: {message}")):
        AnswerFile(path, ASKED, resume=True)
    assert path.read_bytes() == before


def test_long_prompts_are_shown_where_they_part(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, {**ASKED, "prompt": "x" * 500 + "one"}, resume=False) as file:
        file.write([{"picture": "a.png", "answer": "4", "new_tokens": 2, "ended": "eos"}])
    with pytest.raises(ValueError, match=r"prompt \(from character 491 on\) 'x{10}one' there, 'x{10}two' here"):
        AnswerFile(path, {**ASKED, "prompt": "x" * 500 + "two"}, resume=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"picture": "a.png"}\n', "record 1, is not an answer of this command"),
        ("a.jsonl", "hello\n", "record 1, cannot be read"),
        ("a.jsonl", "hello", "is not a file of answers"),
        ("a.csv", "a,b\n1,2\n", "the first line is 'a,b'"),
        ("a.csv", "a,b", "is not a file of answers"),
        ("missing/a.csv", None, "there is no folder"),
    ],
)
def test_files_of_something_else_are_left_alone(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        AnswerFile(path, ASKED, resume=True)
    assert content is None or path.read_text(encoding="utf-8") == content


def test_a_stray_quote_does_not_cost_the_records_behind_it(tmp_path):
    path = tmp_path / "answers.csv"
    with AnswerFile(path, ASKED, resume=False) as file:
        file.write({"picture": f"{name}.png", "answer": "4", "new_tokens": 2, "ended": "eos"} for name in "abc")
    path.write_text(path.read_text().replace('"b.png","4"', '"b.png","4'))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="record 2, cannot be read"):
        AnswerFile(path, ASKED, resume=True)
    assert path.read_bytes() == before


def test_nothing_is_written_or_loaded_without_pictures(folder, capsys, monkeypatch):
    for module in ("many", "describe"):
        monkeypatch.setattr(f"deepseek_vl_hf.cli.{module}.load_chat", None)
    Path("empty/below").mkdir(parents=True)
    shutil.copy(folder / "a.png", "empty/below")
    assert main(["describe", "empty", "--output", "answers.jsonl"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == (
        "error: empty: Found no pictures in this folder. Name another, or pass --recursive for the folders in it."
    )
    assert not Path("answers.jsonl").exists()
    Path("empty/below/a.png").unlink()
    assert main(["describe", "empty", "--recursive"]) == 1
    assert "Found no pictures in this folder or in those below it" in capsys.readouterr().err


def test_a_folder_without_output_is_printed(folder, capsys):
    assert main(["describe", "pictures/more", "pictures/a.png", *COUNT]) == 0
    assert capsys.readouterr().out == "pictures/more/d.png: 4\npictures/a.png: 4\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--resume", "found --resume without --output; name the file"),
        ("--batch-size 4", "found --batch-size without --output"),
        ("--output a.jsonl --batch-size 0", "found '0'; expected a whole number of at least 1"),
        ("--output a.txt", "found 'a.txt'; expected a name that ends in .jsonl"),
        ("--output a.csv --json", "found --json with --output"),
        ("--output a.csv --together", "found --together with --output"),
        ("-p x --prompt-file a", "not allowed with argument"),
        ("--prompt-file missing.txt", "found 'missing.txt', but no such file or directory"),
        ("--prompt-file empty.txt", "found 'empty.txt', which holds no text"),
        ("--prompt-file bytes.txt", "found 'bytes.txt', but it is not text in UTF-8"),
    ],
)
def test_refused_combinations(tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n", encoding="utf-8")
    Path("bytes.txt").write_bytes(b"\xff\xfe\xfa")
    Path("a").write_text("why?", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        parse(["describe", "a.png", *line.split()])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
