"""What may stand at the destination, before a conversion and at its end."""

from pathlib import Path

import pytest
from editing import content_of

from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.checkpoints.conversion import convert


@pytest.mark.parametrize("place", [".", "inside", ".."])
def test_source_and_destination_in_one_another(source, place):
    before = content_of(source.parent)
    with pytest.raises(ValueError, match="the same folder or one lies inside the other"):
        convert_checkpoint(source, source / place, overwrite=True)
    assert content_of(source.parent) == before


def test_a_link_to_the_source(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(ValueError, match="the same folder"):
        convert_checkpoint(source, tmp_path / "link", overwrite=True)


def test_destination_with_files(original, tmp_path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        convert_checkpoint(original, tmp_path)
    with pytest.raises(FileExistsError, match="more than a checkpoint and is not replaced"):
        convert_checkpoint(original, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_destination_that_is_a_file(original, tmp_path):
    (tmp_path / "target").write_text("a file")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        convert_checkpoint(original, tmp_path / "target")


@pytest.fixture
def old(original, tmp_path):
    """A checkpoint at the destination."""
    return convert_checkpoint(original, tmp_path / "target").folder


@pytest.mark.parametrize("interrupted", [1, 2])
def test_an_interrupt_while_the_old_one_is_replaced(original, old, monkeypatch, interrupted):
    """Right before or right after the old checkpoint was moved aside."""
    before, rename, calls = content_of(old), Path.rename, []

    def interrupt(self, target):
        calls.append(target)
        if len(calls) == interrupted:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(original, old, overwrite=True)
    assert content_of(old) == before
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_at_the_destination_meanwhile_is_kept(original, tmp_path, monkeypatch, overwrite):
    write = convert.write_tensors

    def write_late(*arguments):
        write(*arguments)
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "precious.txt").write_text("keep me")

    monkeypatch.setattr(convert, "write_tensors", write_late)
    with pytest.raises(FileExistsError):
        convert_checkpoint(original, tmp_path / "target", overwrite=overwrite)
    assert content_of(tmp_path) == {"target/precious.txt": b"keep me"}


def test_a_folder_with_more_than_a_checkpoint(original, old):
    (old / "checkpoint-500").mkdir()
    with pytest.raises(FileExistsError, match="holds folders, so it is more than a checkpoint"):
        convert_checkpoint(original, old, overwrite=True)


def test_a_source_that_links_into_the_destination(original, old, tmp_path):
    source = tmp_path / "linked"
    source.mkdir()
    for path in original.iterdir():
        (source / path.name).symlink_to(path)
    (source / "extra.txt").symlink_to(old / "config.json")
    with pytest.raises(ValueError, match=r"extra\.txt is a link into"):
        convert_checkpoint(source, old, overwrite=True)


def test_the_working_folder(original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cannot be replaced as a whole"):
        convert_checkpoint(original, ".")


def test_links_as_destinations(original, tmp_path):
    """They are followed: to an empty folder, and to one that is not there yet."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        (tmp_path / f"to {name}").symlink_to(tmp_path / name)
        convert_checkpoint(original, tmp_path / f"to {name}")
        assert (tmp_path / name / "model.safetensors").is_file()
        assert (tmp_path / f"to {name}").is_symlink()


def test_a_replaced_checkpoint_that_a_kill_left_is_named(original, tmp_path):
    (tmp_path / ".target.abc.replaced").mkdir()
    lines = []
    convert_checkpoint(original, tmp_path / "target", report=lines.append)
    assert any(".target.abc.replaced: a checkpoint that was being replaced" in line for line in lines)
