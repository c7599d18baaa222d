"""`deepseek-vl` before the package is loaded: the command line, and what is kept off the terminal."""

import errno
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek_vl_command import arguments, faults, main, values
from deepseek_vl_command.quiet import without_complaints_of_torchao
from deepseek_vl_hf import __version__, cli
from deepseek_vl_hf.chat import SAMPLING
from deepseek_vl_hf.chat.unasked import QUESTION
from deepseek_vl_hf.checkpoints.conversion.convert import DEFAULT_SHARD_SIZE
from deepseek_vl_hf.checkpoints.conversion.jobs import ORIGINAL, TRANSFORMERS
from deepseek_vl_hf.models import sampling
from deepseek_vl_hf.nano.folder import NANO
from deepseek_vl_hf.quantization.packing import GROUP_SIZES
from deepseek_vl_hf.serving import engines
from deepseek_vl_hf.serving.requests import MOST_PICTURES

# In an interpreter of its own: the exit status, and the packages that were imported beside the standard library.
PROGRAM = """
import json, sys
before = set(sys.modules)
from deepseek_vl_command import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
packages = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(json.dumps([status, sorted(packages)]))
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["describe", "--help"], 0),
        (["doctor", "--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["discribe"], 2),
        (["describe"], 2),
        (["chat", "--max-new-tokens", "many"], 2),
        (["convert", "source", "--to", "nowhere"], 2),
    ],
)
def test_what_needs_no_model_imports_nothing(words, status):
    command = [sys.executable, "-c", PROGRAM, *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout.splitlines()[-1]) == [status, ["deepseek_vl_command"]]
    assert ("usage: deepseek-vl" in result.stderr) == (status == 2)


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["describe"], 2)])
def test_the_package_as_a_program_answers_at_once_too(tmp_path, words, status):
    """With a torch that cannot be imported, so that what gets that far fails."""
    (tmp_path / "torch.py").write_text("raise SystemExit(99)", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(Path(cli.__file__).parents[2])))}
    command = [sys.executable, "-m", "deepseek_vl_hf"]
    result = subprocess.run([*command, *words], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == status
    assert "usage: deepseek-vl" in result.stdout + result.stderr
    command = [sys.executable, "-c", "import deepseek_vl_hf", "-m", "deepseek_vl_hf"]
    assert subprocess.run([*command, *words], capture_output=True, check=False, env=environment).returncode == 99


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"deepseek-vl {__version__}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("discribe", "invalid choice: 'discribe'"),
        ("chat --max-new-tokens 0", "found '0'; expected a whole number of at least 1"),
        ("chat --max-new-tokens 1.5", "found '1.5'; expected a whole number of at least 1"),
        ("chat --max-new-tokens nan", "found 'nan'; expected a whole number of at least 1"),
        ("chat --temperature -1", "found '-1'; expected 0, or a number from 1e-06 to 100"),
        ("chat --temperature nan", "found 'nan'; expected 0, or a number"),
        ("chat --temperature inf", "found 'inf'; expected 0, or a number"),
        ("chat --temperature 1e-300", "found '1e-300'; expected 0, or a number"),
        ("describe a.png --temperature 1e300", "found '1e300'; expected 0, or a number"),
        ("chat --top-p 2", "found '2'; expected a number above 0 and at most 1"),
        ("demo --top-p nan", "found 'nan'; expected a number above 0 and at most 1"),
        ("describe a.png --top-p 0", "found '0'; expected a number above 0 and at most 1"),
        ("chat --repetition-penalty 0", "found '0'; expected a number from 0.01 to 100"),
        ("chat --repetition-penalty nan", "found 'nan'; expected a number from 0.01 to 100"),
        ("chat --repetition-penalty 1e300", "found '1e300'; expected a number from 0.01 to 100"),
        ("chat --device CUDA!", "found 'CUDA!'; expected a device such as cpu, cuda or cuda:1"),
        ("describe a.png -p \udcff", r"found '\udcff'; expected text in UTF-8"),
        ("chat --system \udcff", r"found '\udcff'; expected text in UTF-8"),
        ("chat model\udcff", r"found 'model\udcff'; expected a name in UTF-8"),
        ("convert source target\udcff", r"found 'target\udcff'; expected a name in UTF-8"),
        ("demo --port nan", "found 'nan'; expected a whole number from 0 to 65535"),
        ("demo --port 70000", "found '70000'; expected a whole number from 0 to 65535"),
        ("convert source", "DST is missing"),
        ("convert source --dry-run --push-to-hub a/b", "--push-to-hub: not allowed with argument --dry-run"),
        ("convert source target --max-shard-size 5", "found '5'; expected a size such as 5GB"),
        ("convert source target --max-shard-size 0GB", "found '0GB'; expected a size such as 5GB"),
        ("convert source target --max-shard-size 0.0001KB", "found '0.0001KB'; expected a size such as 5GB"),
        (f"quantize source target --max-shard-size {'9' * 400}GB", "expected a size such as 5GB"),
        ("quantize source", "the following arguments are required: DST"),
        ("quantize source target --group-size 100", "invalid choice: 100"),
    ],
)
def test_mistakes(capsys, line, message):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["5GB", "200KB", "1.5 gb", "2TB"])
def test_sizes(text):
    assert arguments.parse(["convert", "source", "target", "--max-shard-size", text]).max_shard_size == text


def test_the_help_says_what_the_package_does():
    """These constants stand in both, because the command line is read without the package."""
    assert arguments.NANO == NANO
    assert arguments.QUESTION == QUESTION
    assert arguments.parse(["describe", "a.png"]).prompt is None
    assert arguments.SHARD_SIZE == DEFAULT_SHARD_SIZE
    assert (arguments.TRANSFORMERS, arguments.ORIGINAL) == (TRANSFORMERS, ORIGINAL)
    assert set(arguments.GROUP_SIZES) == set(GROUP_SIZES)
    assert arguments.SAMPLING.items() <= SAMPLING.items()
    assert set(arguments.ENGINES) == {"auto", engines.TRANSFORMERS, engines.VLLM}
    assert arguments.parse(["serve"]).max_images == MOST_PICTURES
    for name in ("COLDEST", "HOTTEST", "LEAST_PENALTY", "LARGEST_PENALTY"):
        assert getattr(values, name) == getattr(sampling, name)


def test_an_empty_name_is_no_folder(capsys):
    """As a variable of a shell gives it that was never set; pathlib takes it for the current folder."""
    for line in (["describe", "a.png", "--model", ""], ["convert", "", "target"], ["quantize", "source", ""]):
        with pytest.raises(SystemExit) as stop:
            main(line)
        assert stop.value.code == 2
        assert "found ''; expected a name in UTF-8" in capsys.readouterr().err


def test_debug_stands_before_or_behind_the_command():
    assert not arguments.parse(["chat"]).debug
    assert arguments.parse(["--debug", "chat"]).debug
    for name in arguments.COMMANDS:
        words = {"convert": ["a", "b"], "quantize": ["a", "b"], "describe": ["a"], "verify-real": ["a"]}.get(name, [])
        words = ["a", "--model", "b"] if name == "ocr" else words
        given = {"train": ["a", "--model", "b", "--output", "c", "--full"], "merge": ["a", "--output", "b"]}
        assert arguments.parse([name, *given.get(name, words), "--debug"]).debug


class OutOfMemoryError(RuntimeError):
    """As torch names its own, which the launcher does not import."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("what to do"), "what to do"),
        (ImportError("needs Gradio"), "needs Gradio"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json"), "a.json: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("The Hub did not take part"), "The Hub did not take part"),
        (MemoryError(), "There is not enough memory. Try a smaller model"),
        (OutOfMemoryError("CUDA out of memory.\nTried ..."), "There is not enough memory (CUDA out of memory. Tried"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "There is not enough memory"),
        (KeyError("x"), "unexpected KeyError: 'x'. --debug shows the traceback."),
        (RuntimeError("one\n\n  two"), "unexpected RuntimeError: one two. --debug"),
        (RuntimeError("x" * 1000), f"unexpected RuntimeError: {'x' * 300} .... --debug"),
        (AssertionError(), "unexpected AssertionError: without a message. --debug"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_are_one_line(capsys, error, message):
    def fail():
        raise error

    assert faults.run_with_messages(fail, debug=False) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert faults.run_with_messages(fail, debug=True) == 1
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("Traceback")
    assert last == line


def kill_this_process(monkeypatch, number):
    """The next module that the launcher loads does."""
    monkeypatch.setattr("deepseek_vl_command.import_module", lambda name: os.kill(os.getpid(), number))


def test_control_c_while_the_package_is_loaded(capsys, monkeypatch):
    kill_this_process(monkeypatch, signal.SIGINT)
    assert main(["chat"]) == faults.STOPPED_BY_CONTROL_C == 130
    assert capsys.readouterr().err == "stopped\n"


def test_sigterm_while_the_package_is_loaded(capsys, monkeypatch):
    """It ends without a word."""
    kill_this_process(monkeypatch, signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        main(["chat"])
    assert stop.value.code == faults.STOPPED_BY_SIGTERM == 143
    assert capsys.readouterr() == ("", "")


# Runs the launcher's part with a command of its own.
WRITES = """
import sys
from deepseek_vl_command import faults
def run():
    print("answer" * 20000, {flush})
    print("\\u4f60\\udcff", sys.stdin.read())
    return 0
sys.exit(faults.run_with_messages(run, False))
"""


@pytest.mark.parametrize("flush", ["flush=True", "flush=False"])
@pytest.mark.parametrize(
    ("shell", "status", "error"),
    [
        ("{program} | head -c 5 >/dev/null; exit ${{PIPESTATUS[0]}}", faults.READER_IS_GONE, ""),
        ("{program} >/dev/full", 1, "error: No space left on device\n"),
        ("{program} >&-", 0, ""),
        ("{program} <&- >/dev/null", 0, ""),
        ("PYTHONIOENCODING=ascii {program} </dev/null | grep -q 'u4f60.udcff'", 0, ""),
    ],
    ids=["no-reader", "full", "closed-output", "closed-input", "ascii"],
)
def test_output_that_goes_nowhere(tmp_path, shell, status, error, flush):
    (tmp_path / "program.py").write_text(WRITES.format(flush=flush), encoding="utf-8")
    line = shell.format(program=f"{sys.executable} {tmp_path / 'program.py'}")
    environment = {**os.environ, "PYTHONPATH": str(Path(faults.__file__).parents[1])}
    result = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL
    )
    assert (result.returncode, result.stderr) == (status, error)


def test_each_command_has_its_module():
    for name in set(arguments.COMMANDS) - {"doctor"}:  # which runs where the package cannot be loaded
        assert callable(importlib.import_module(f"deepseek_vl_hf.cli.{name.replace('-', '_')}").run)
    assert cli.main is main


def test_complaints_of_torchao_are_dropped_and_nothing_else(caplog):
    lines = {
        "torchao": [
            ("Failed to load /somewhere/torchao/_C_mxfp8.abi3.so: Could not load this library", False),
            ("Skipping import of cpp extensions due to incompatible torch version.", False),
            ("Failed to load the weights", True),
        ],
        "torch.utils._pytree": [
            ("<enum 'Kind'> is an Enum subclass and is supported. Calling register_constant() is deprecated", False),
            ("another line", True),
        ],
    }
    with without_complaints_of_torchao(), caplog.at_level(logging.WARNING):
        for name, messages in lines.items():
            for message, _ in messages:
                logging.getLogger(name).warning(message)
    shown = [message for messages in lines.values() for message, is_shown in messages if is_shown]
    assert [record.getMessage() for record in caplog.records] == shown
    assert not any(logging.getLogger(name).filters for name in lines)
