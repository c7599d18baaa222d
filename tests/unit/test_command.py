"""`deepseek-vl` before the package is loaded: the command line, and what is kept off the terminal."""

import importlib
import json
import logging
import subprocess
import sys

import pytest

from deepseek_vl_command import arguments, main
from deepseek_vl_command.quiet import without_complaints_of_torchao
from deepseek_vl_hf import __version__, cli
from deepseek_vl_hf.chat import SAMPLING
from deepseek_vl_hf.checkpoints.conversion.convert import DEFAULT_SHARD_SIZE
from deepseek_vl_hf.checkpoints.conversion.jobs import ORIGINAL, TRANSFORMERS
from deepseek_vl_hf.nano.folder import NANO
from deepseek_vl_hf.quantization.packing import GROUP_SIZES

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
        ("chat --temperature -1", "found '-1'; expected a number of at least 0"),
        ("chat --temperature nan", "found 'nan'; expected a number of at least 0"),
        ("chat --top-p 2", "found '2'; expected a number from 0 to 1"),
        ("chat --repetition-penalty 0", "found '0'; expected a number above 0"),
        ("demo --port 70000", "found '70000'; expected a whole number from 0 to 65535"),
        ("convert source", "DST is missing"),
        ("convert source --dry-run --push-to-hub a/b", "--push-to-hub: not allowed with argument --dry-run"),
        ("convert source target --max-shard-size 5", "found '5'; expected a size such as 5GB"),
        ("convert source target --max-shard-size 0GB", "found '0GB'; expected a size such as 5GB"),
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
    assert arguments.SHARD_SIZE == DEFAULT_SHARD_SIZE
    assert (arguments.TRANSFORMERS, arguments.ORIGINAL) == (TRANSFORMERS, ORIGINAL)
    assert set(arguments.GROUP_SIZES) == set(GROUP_SIZES)
    assert arguments.SAMPLING.items() <= SAMPLING.items()


def test_each_command_has_its_module():
    for name in arguments.COMMANDS:
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
