"""Where conversations come from, how they are checked, and which of them stand together."""

import sys

import pytest
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image

from deepseek_vl_hf import ConversationCollator
from deepseek_vl_hf.training import data as data_module
from deepseek_vl_hf.training.data import Data, check_rows, fingerprint_of, load_data
from deepseek_vl_hf.training.packing import PackCollator, Packs, packs_of

COLORS = ("red", "green", "blue")


def rows(colors=COLORS):
    return [
        {
            "messages": [
                {"role": "user", "content": "<image>Which?"},
                {"role": "assistant", "content": f"the {color} one"},
            ],
            "images": [Image.new("RGB", (40, 30), color)],
            "place": f"row {number}",
        }
        for number, color in enumerate(colors)
    ]


def columns(colors=COLORS):
    """As a table: images in a column of their own, which `datasets` decodes."""
    names = ("messages", "images")
    table = Dataset.from_dict({name: [row[name] for row in rows(colors)] for name in names})
    return table.cast_column("images", [ImageFeature()])


@pytest.fixture(scope="module")
def collator(vl):
    return ConversationCollator(vl.processor)


def nothing(done, total):
    pass


def test_a_folder_of_datasets(vl, collator, tmp_path):
    columns().save_to_disk(tmp_path / "set")
    DatasetDict({"train": columns(), "test": columns(["white"])}).save_to_disk(tmp_path / "splits")
    expected = fingerprint_of(check_rows(Data(rows()), collator, False, nothing))
    for name in ("set", "splits"):
        found = load_data(str(tmp_path / name), vl.processor.image_token)
        assert len(found.rows) == 3
        assert found.rows[1]["place"] == f"{tmp_path / name}, row 2"
        assert fingerprint_of(check_rows(found, collator, False, nothing)) == expected
    with pytest.raises(IndexError):
        found.rows[3]


def test_data_that_is_not_there(vl, tmp_path, monkeypatch):
    DatasetDict({"test": columns()}).save_to_disk(tmp_path / "test_only")
    with pytest.raises(ValueError, match="has the splits test; expected one called train"):
        load_data(str(tmp_path / "test_only"), vl.processor.image_token)
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none.jsonl"):
        load_data(str(tmp_path / "none.jsonl"), vl.processor.image_token)
    with monkeypatch.context() as patch:
        patch.setattr("datasets.load_from_disk", lambda name: Dataset.from_dict({"messages": []}))
        with pytest.raises(ValueError, match="holds no rows"):
            load_data(str(tmp_path), vl.processor.image_token)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'datasets>=4'"):
        load_data("someone/something", vl.processor.image_token)


def test_rows_are_checked_in_several_processes(collator, monkeypatch):
    expected = check_rows(Data(rows()), collator, False, nothing)
    seen = []
    monkeypatch.setattr(data_module, "ROWS_FOR_PROCESSES", 1)
    assert check_rows(Data(rows()), collator, False, lambda *pair: seen.append(pair)) == expected
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert all(row.has_pictures and row.length > 20 for row in expected)


def test_a_fingerprint_is_of_texts_pictures_and_order(collator):
    def fingerprint(some):
        return fingerprint_of(check_rows(Data(some), collator, False, nothing))

    others = [rows(COLORS[::-1]), rows(COLORS[:2]), rows(("red", "green", "white"))]
    repainted = rows()
    repainted[2]["images"] = [Image.new("RGB", (40, 30), "navy")]
    found = {fingerprint(some) for some in (rows(), rows(), *others, repainted)}
    assert len(found) == 5


def test_many_faults_are_counted(collator):
    bad = [{"messages": [{"role": "user", "content": "Hi"}], "place": f"row {number}"} for number in range(30)]
    with pytest.raises(ValueError, match=r"(?s)^30 rows cannot be trained on:\nrow 0: .*\.\.\. and 10 more$"):
        check_rows(Data(bad), collator, False, nothing)


def test_packs_are_full():
    lengths = [5, 9, 3, 2, 7, 4, 10, 1]
    packs = packs_of(lengths, 10)
    assert sorted(number for pack in packs for number in pack) == [*range(8)]
    assert all(sum(lengths[number] for number in pack) <= 10 for pack in packs)
    assert len(packs) == 5  # 41 tokens
    assert packs_of([], 10) == []
    assert packs_of([10, 10], 10) == [[0], [1]]


def test_packs_become_batches_that_name_their_rows(collator):
    packs = Packs(rows(), [[2, 0], [1]])
    assert len(packs) == 2
    batch = PackCollator(collator)([packs[0], packs[1]])
    assert batch["places"] == ["row 2", "row 0", "row 1"]
    assert batch["input_ids"].equal(collator([rows()[number] for number in (2, 0, 1)])["input_ids"])
