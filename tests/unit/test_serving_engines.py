"""Which engine serves a model, and what the command line says about it."""

import pytest

from deepseek_vl_command import arguments, main
from deepseek_vl_hf.serving import engines


def choose(monkeypatch, *words, installed=False):
    monkeypatch.setattr(engines, "find_spec", lambda name: object() if installed else None)
    return engines.choose(arguments.parse(["serve", "path/to/model", *words]))


def test_without_vllm_it_is_transformers(monkeypatch):
    assert choose(monkeypatch) == ("transformers", "vLLM is not installed.")
    assert choose(monkeypatch, "--engine", "transformers", installed=True) == ("transformers", "It was asked for.")


@pytest.mark.parametrize("option", ["--int4", "--fast"])
def test_what_vllm_does_not_know_goes_to_transformers(monkeypatch, option):
    engine, reason = choose(monkeypatch, option, installed=True)
    assert (engine, option in reason) == ("transformers", True)


@pytest.mark.parametrize(
    ("words", "installed", "error", "message"),
    [
        (["--engine", "vllm"], False, ImportError, "vLLM is not installed. pip install vllm"),
        (["--engine", "vllm", "--int4"], True, ValueError, "Found --int4 with --engine vllm"),
        (["--", "--max-num-seqs", "4"], False, ValueError, "Found --max-num-seqs 4 behind --, which is for vLLM"),
        (["--engine", "transformers", "--", "-x"], True, ValueError, "Found -x behind --, which is for vLLM"),
    ],
)
def test_arguments_for_another_engine_are_refused(monkeypatch, words, installed, error, message):
    with pytest.raises(error) as caught:
        choose(monkeypatch, *words, installed=installed)
    assert message in str(caught.value)


def test_what_stands_behind_two_dashes_is_the_engines():
    parsed = arguments.parse(["serve", "--engine", "vllm", "--", "--tensor-parallel-size", "4", "--", "x"])
    assert (parsed.model, parsed.host, parsed.port) == ("nano", "127.0.0.1", 8000)
    assert parsed.engine_arguments == ["--tensor-parallel-size", "4", "--", "x"]


def test_other_commands_have_no_engine(capsys):
    with pytest.raises(SystemExit):
        arguments.parse(["chat", "--", "nano"])
    assert "unrecognized arguments: nano" in capsys.readouterr().err


def test_an_engine_that_is_missing_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert main(["serve", "--port", "0", "--engine", "vllm"]) == 1
    assert capsys.readouterr().err.startswith("error: vLLM is not installed.")
