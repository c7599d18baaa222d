"""`deepseek-vl convert` and `verify-real` as programs, and what they print and return."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from safetensors.torch import load_file

from deepseek_vl_hf.checkpoints.conversion import real
from deepseek_vl_hf.checkpoints.layouts import files
from deepseek_vl_hf.cli import main
from family import OCR, VL2_FAMILIES, VL_FAMILIES
from forked import python

SCRIPT = Path(__file__).parents[2] / "convert" / "convert_deepseek_vl.py"
MODULE = [sys.executable, "-m", "deepseek_vl_command"]


@pytest.mark.parametrize("command", [("-m", "deepseek_vl_command", "convert"), (SCRIPT,)], ids=["command", "script"])
def test_converting(original, tmp_path, command):
    result = python(*command, original, tmp_path / "target")
    assert result.returncode == 0, result.stderr
    assert "67 tensors are read, 62 are written:" in result.stdout
    *_, wrote, following = result.stdout.splitlines()
    assert re.fullmatch(re.escape(f"Wrote {tmp_path}/target: 62 tensors, 514.8 kB, in ") + r"\d+\.\d s", wrote)
    assert following == f"Next: deepseek-vl chat {tmp_path}/target"
    assert "Writing" not in result.stderr  # no progress bar where the error stream is no terminal
    assert (tmp_path / "target" / "model.safetensors").is_file()
    again = python(*command, original, tmp_path / "target")
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("error: ")
    assert "exists and is not empty" in again.stderr


def test_the_installed_command(original, tmp_path):
    command = Path(sys.executable).parent / "deepseek-vl"
    words = [command, "convert", original, tmp_path / "target", "--quiet"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")
    assert (tmp_path / "target" / "config.json").is_file()


def test_options(original, tmp_path, capsys):
    arguments = ["--dtype", "bfloat16", "--max-shard-size", "200KB", "--verify", "--base-model", "a/b"]
    assert main(["convert", str(original), str(tmp_path / "target"), *arguments]) == 0
    output = capsys.readouterr().out
    assert "Verified 54 tensors: equal to the source, after rounding to bfloat16" in output
    assert "Verified a prompt with a picture, run in bfloat16" in output
    assert len(list((tmp_path / "target").glob("*.safetensors"))) > 2
    assert "base_model: a/b" in (tmp_path / "target" / "README.md").read_text()
    assert main(["convert", str(original), str(tmp_path / "target"), "--overwrite"]) == 0
    assert [path.name for path in (tmp_path / "target").glob("*.safetensors")] == ["model.safetensors"]


def test_quiet(original, tmp_path, capsys):
    assert main(["convert", str(original), str(tmp_path / "target"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["convert", str(original), str(tmp_path / "target"), "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_there_and_back(converted, original, tmp_path, capsys):
    assert main(["convert", str(converted), str(tmp_path / "back"), "--to", "original"]) == 0
    output = capsys.readouterr().out
    assert "62 tensors are read, 54 are written:" in output
    assert "  12 are queries, keys or values, and are joined to 4" in output
    assert "Note: The result lacks vision_model.vision_tower.attn_pool.*, which" in output
    found, expected = load_file(tmp_path / "back" / "model.safetensors"), original
    name = "vision_model.vision_tower.blocks.0.attn.qkv.weight"
    shards = [load_file(path) for path in expected.glob("*.safetensors")]
    assert any(name in shard and bool((shard[name] == found[name]).all()) for shard in shards)


def test_dry_run(original, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in original.iterdir()}
    assert main(["convert", str(original), str(tmp_path / "target"), "--dry-run"]) == 0
    assert {path: path.stat().st_mtime_ns for path in original.iterdir()} == before
    output = capsys.readouterr().out
    assert re.search(
        r"\n +1  640 x 64 +float16 +81\.9 kB  language_model\.lm_head\.weight -> lm_head\.weight\n", output
    )
    assert "nothing was written" in output
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_convert(converted, tmp_path, capsys):
    assert main(["convert", str(converted), str(tmp_path / "target"), "--quiet"]) == 0
    assert "there is nothing to convert" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_nowhere(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "nothing"), str(tmp_path / "target")]) == 1
    assert "is no folder. Expected a checkpoint's folder or a Hub repository's name" in capsys.readouterr().err
    assert main(["convert", "someone/nothing", str(tmp_path / "target")]) == 1
    assert "the Hub repository of that name cannot be downloaded" in capsys.readouterr().err


def test_a_hub_repository(original, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(files, "snapshot_download", lambda name, **_: (asked.append(name), str(original))[1])
    assert main(["convert", "deepseek-ai/deepseek-vl-1.3b-chat", str(tmp_path / "target")]) == 0
    assert asked == ["deepseek-ai/deepseek-vl-1.3b-chat"]
    assert "base_model: deepseek-ai/deepseek-vl-1.3b-chat" in (tmp_path / "target" / "README.md").read_text()


def test_uploading(original, tmp_path, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(HfApi, "whoami", lambda self: calls.append("whoami"))
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, exist_ok: calls.append(name) or f"hub:{name}")
    monkeypatch.setattr(
        HfApi, "upload_folder", lambda self, repo_id, folder_path, commit_message: calls.append(folder_path)
    )
    target = str(tmp_path / "target")
    assert main(["convert", str(original), target, "--push-to-hub", "me/model"]) == 0
    assert calls == ["whoami", "me/model", target]
    assert "Uploaded to hub:me/model" in capsys.readouterr().out


def test_a_missing_login_is_noticed_before_the_work(original, tmp_path, capsys, monkeypatch):
    def refuse(self):
        raise OSError("Invalid user token")

    monkeypatch.setattr(HfApi, "whoami", refuse)
    assert main(["convert", str(original), str(tmp_path / "target"), "--push-to-hub", "me/model"]) == 1
    assert "The Hub did not take part: Invalid user token" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown_in_bytes_on_a_terminal(original, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # a terminal has a width
    command = [*MODULE, "convert", str(original), str(tmp_path / "target"), "--verify"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:  # how Linux says that the other end was closed
        pass
    assert b"Writing: 100%" in shown
    assert b"Verifying: 100%" in shown
    assert b"515k/515k" in shown
    assert b"B/s" in shown
    assert b"Verified 54 tensors" in result.stdout


SLOW = """
import sys, time
from deepseek_vl_hf.checkpoints.tensors import writer
from deepseek_vl_hf.cli import main
copy = writer._write_piece
def slow(*arguments):
    print("writing", flush=True)
    time.sleep(0.2)
    return copy(*arguments)
writer._write_piece = slow
sys.exit(main(["convert", *sys.argv[1:], "--quiet"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopping_cleans_up(original, tmp_path, number, status):
    command = [sys.executable, "-c", SLOW, str(original), str(tmp_path / "target")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        assert next(tmp_path.iterdir()).name.endswith(".partial")
        time.sleep(0.3)
        process.send_signal(number)
        process.communicate()
    assert process.returncode == status
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*VL_FAMILIES, *VL2_FAMILIES, OCR])
def test_verify_real(families, name, tmp_path, capsys):
    """In both layouts."""
    family = families[name]
    for folder, layout in ((family.original, "original"), (family.converted, "transformers")):
        report = tmp_path / f"{layout}.json"
        arguments = ["verify-real", str(folder), "--report", str(report), "--work-dir", str(tmp_path)]
        assert main(arguments) == 0
        content = json.loads(report.read_text())
        assert (content["layout"], content["passed"], content["prompts_were_run"]) == (layout, True, True)
        assert len(content["prompts"]) == 4
        assert all(prompt["identical"] and prompt["new_tokens"] for prompt in content["prompts"])
        shown = capsys.readouterr().out
        assert "Passed; report in" in shown
        assert shown.count(str(tmp_path)) == 1  # that of the report; no temporary folder is named
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_verify_real_of_a_damaged_checkpoint(original, tmp_path, capsys):
    source = shutil.copytree(original, tmp_path / "source")
    shard = next(source.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    report = tmp_path / "report.json"
    assert main(["verify-real", str(source), "--report", str(report)]) == 1
    assert "cannot be read as safetensors" in json.loads(report.read_text())["error"]
    assert main(["verify-real", str(source), "--report", str(tmp_path / "no" / "report.json")]) == 1
    assert "is no folder. Name a --report in one that exists" in capsys.readouterr().err


def test_a_folder_named_with_a_slash_is_no_origin(original, tmp_path):
    assert main(["convert", f"{original}/", str(tmp_path / "target"), "--quiet"]) == 0
    text = (tmp_path / "target" / "README.md").read_text()
    assert "base_model" not in text
    assert "# checkpoint, transformers layout" in text


def test_verify_real_sees_a_difference(original, tmp_path, capsys, monkeypatch):
    """Guards the check: another answer in one of the layouts must not pass."""
    compare = real.compare_models

    def compare_wrongly(first, second, prompts):
        found = compare(first, second, prompts)
        object.__setattr__(found[1], "largest_logit_difference", 1e-6)
        return found

    monkeypatch.setattr(real, "compare_models", compare_wrongly)
    report = tmp_path / "report.json"
    assert main(["verify-real", str(original), "--report", str(report)]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert not json.loads(report.read_text())["passed"]


def test_a_model_larger_than_the_memory_runs_no_prompt(original, tmp_path, capsys, monkeypatch):
    for module in ("convert", "real"):
        monkeypatch.setattr(f"deepseek_vl_hf.checkpoints.conversion.{module}.fits_in_memory", lambda num_bytes: False)
    report = tmp_path / "report.json"
    assert main(["verify-real", str(original), "--report", str(report)]) == 0
    assert "does not fit in memory, so no prompt was run" in capsys.readouterr().out
    assert not json.loads(report.read_text())["prompts_were_run"]


def test_help(capsys):
    for arguments in (["--help"], ["convert", "--help"], ["verify-real", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert "usage: deepseek-vl" in capsys.readouterr().out
    assert "usage: deepseek-vl convert" in python(SCRIPT, "--help").stdout
