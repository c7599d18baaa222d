"""Conversions that cannot end: a full disk, and kills at any moment."""

import errno

import pytest
import torch
from editing import content_of, tensors_of

from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.checkpoints.conversion import destination
from forked import python


def test_too_little_room(original, tmp_path, monkeypatch):
    usage = destination.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"The result takes 0.00 GB, but only 0.00 GB are free in"):
        convert_checkpoint(original, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up(original, tmp_path):
    """A limit on the size of files stands for the full disk: the kernel refuses in the middle of a tensor."""
    program = f"""
import resource, signal, sys
from deepseek_vl_hf.checkpoints import convert_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    convert_checkpoint({str(original)!r}, {str(tmp_path / "target")!r})
except OSError as error:
    sys.exit(error.errno)
"""
    result = python("-c", program)
    assert result.returncode == errno.EFBIG, result.stderr
    assert list(tmp_path.iterdir()) == []


# Converts again and again; each conversion is slowed down, so that most of it is writing, and killed at some moment.
# The first is not killed: it tells how long one takes.
KILLED_AT_RANDOM = """
import os, random, signal, sys, time
from pathlib import Path
from deepseek_vl_hf.checkpoints import convert_checkpoint
from deepseek_vl_hf.checkpoints.tensors import writer

source, folder = sys.argv[1:]
copy = writer._write_piece
def slow(*arguments):
    time.sleep(0.002)
    return copy(*arguments)
writer._write_piece = slow
random.seed(0)
seconds = None
for number in range(24):
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            convert_checkpoint(source, Path(folder, str(number)))
        finally:
            os._exit(0)
    if seconds is not None:
        time.sleep(random.uniform(0, 1.1 * seconds))
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seconds = seconds or time.monotonic() - start
"""


def test_killed_at_random_moments(original, converted, tmp_path):
    result = python("-c", KILLED_AT_RANDOM, original, tmp_path)
    assert result.returncode == 0, result.stderr
    complete = sorted(path for path in tmp_path.iterdir() if not path.name.startswith("."))
    partial = [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    for folder in complete:
        assert content_of(folder).keys() == content_of(converted).keys()
        found, expected = tensors_of(folder), tensors_of(converted)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert complete, "not even the first conversion, which was not killed, is there"
    half_way = [path for path in partial if list(path.glob("checkpoint/*.safetensors"))]
    assert half_way, "no conversion was killed while it wrote; the test shows nothing"
    assert len(complete) + len(partial) <= 24

    lines = []
    number = half_way[0].name.split(".")[1]
    assert not (tmp_path / number).exists()
    convert_checkpoint(original, tmp_path / number, report=lines.append)
    assert any("one was killed and left it" in line and half_way[0].name in line for line in lines)
