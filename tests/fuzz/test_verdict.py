"""The judge itself: it must not pass what it is there to find."""

import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seen
import verdict
import weights
from deepseek_vl_hf.conversation.messages import normalize_conversations
from family import FIXTURES
from verdict import NotRefusedError, OtherValueError, accepting, judge


def raising(error):
    def check(recipe):
        raise error

    return check


def test_right_and_refused():
    assert judge(lambda recipe: None, {}) == "right"
    assert judge(lambda recipe: normalize_conversations([5], "<image>"), {}) == "refused"
    assert judge(raising(FileNotFoundError(2, "No such file", "a.json")), {}) == "refused"


@pytest.mark.parametrize("kind", [KeyError, AttributeError, RuntimeError, RecursionError, AssertionError, SystemExit])
def test_errors_of_other_kinds_are_bad(kind):
    assert judge(raising(kind("x")), {}).startswith(kind.__name__)


@pytest.mark.parametrize("error", [ValueError(""), TypeError(" "), OSError()])
def test_errors_without_words_are_bad(error):
    assert "no message" in judge(raising(error), {})


def test_what_python_says_about_our_code_is_no_message_for_a_person():
    assert "TypeError" in judge(lambda recipe: normalize_conversations(5, "<image>"), {})


def test_other_values_are_bad():
    assert judge(raising(OtherValueError("x")), {}) == "another value: x"
    assert judge(raising(NotRefusedError("x")), {}) == "accepted: x"

    def refusing_a_good_one(recipe):
        with accepting("a good one"):
            raise ValueError("no")

    assert judge(refusing_a_good_one, {}) == "another value: a good one was refused: ValueError: no"


def test_hangs_are_ended(monkeypatch):
    monkeypatch.setattr(verdict, "SECONDS", 1)

    def hang(recipe):
        while True:
            with suppress(Exception):  # does not stop it
                time.sleep(30)

    assert judge(hang, {}) == "hang: more than 1 s"


def test_memory_is_watched(monkeypatch):
    monkeypatch.setattr(verdict, "GIGABYTES", 0.05)
    monkeypatch.setattr(verdict, "ROOM", 1 << 28)
    if not verdict._status("VmHWM"):
        pytest.skip("this system does not tell a process how much memory it took")
    assert judge(lambda recipe: np.ones(2 * 10**7), {}).startswith("memory: 0.")
    assert judge(lambda recipe: np.ones(10**9), {}).startswith(("MemoryError", "_ArrayMemoryError"))


def test_weights_that_add_up_and_each_damage(tmp_path):
    """Every damage is seen by the reader, or leaves a checkpoint that differs in values or not at all."""
    source = FIXTURES / "vl" / "checkpoint"
    whole = weights.well_formed(source)
    assert whole is not None
    assert len(whole) > 50
    harmless = {"flip_a_byte", "flip_a_byte_of_the_header", "other_values", "not_finite", "retype", "edit_header"}
    for kind in weights.DAMAGES:
        folder = tmp_path / kind
        folder.mkdir()
        for path in [*source.glob("*.safetensors"), source / weights.INDEX]:
            (folder / path.name).write_bytes(path.read_bytes())
        weights.apply(folder, kind, shard=0, tensor=3, number=3)
        found = weights.well_formed(folder)
        assert found != whole, kind
        assert found is None or kind in harmless | {"missing", "extra", "reshape"}, kind


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[[0.0], [0.5], [1.0]]]), [0, 128, 255]),
        (np.array([[[0.0], [128.0], [255.0]]]), [0, 128, 255]),
        (np.array([[[0], [257], [65535]]]), [0, 1, 255]),
        (np.array([[[0], [200], [255]]]), [0, 200, 255]),
        (np.array([[[-1.0], [0.5], [1.0]]]), None),
        (np.array([[[0.0], [0.5], [256.0]]]), None),
        (np.array([[[0], [1], [65536]]]), None),
        (np.array([[[0.0], [np.nan], [1.0]]]), None),
    ],
)
def test_what_is_seen_of_numbers(values, expected):
    found = seen.of_numbers(values, wide=False, transparency=None)
    assert found is None if expected is None else found[0, :, 0].tolist() == expected


def test_what_is_seen_through():
    half = Image.new("RGBA", (1, 1), (0, 0, 200, 51))
    assert seen.of_image(half, None)[0, 0].tolist() == [204, 204, 244]
    assert seen.of_image(half, "drop")[0, 0].tolist() == [0, 0, 200]
    assert seen.of_file(Path("there is none"), None) is None
