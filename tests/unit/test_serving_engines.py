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


@pytest.mark.parametrize("options", [["--int4"], ["--fast"], ["--device", "cpu"]])
def test_what_vllm_does_not_know_goes_to_transformers(monkeypatch, options):
    engine, reason = choose(monkeypatch, *options, installed=True)
    assert (engine, options[0] in reason) == ("transformers", True)


def test_what_vllm_can_serve_it_does(monkeypatch, vl, tmp_path):
    """The fixtures' heads are too narrow for vLLM on a CPU; the packaged model is converted for it."""

    def of(folder):
        monkeypatch.setattr(engines, "find_spec", lambda name: object())
        return engines.choose(arguments.parse(["serve", str(folder)]))

    assert of("nano") == ("vllm", "It is installed, and can serve the model.")
    engine, reason = of(vl.original)
    assert (engine, "deepseek-vl convert" in reason) == ("transformers", True)
    engine, reason = of(vl.converted)
    assert (engine, "has heads of width" in reason) == ("transformers", True)
    with pytest.raises(OSError, match="missing"):
        of(tmp_path / "missing")


@pytest.mark.parametrize(
    ("words", "installed", "error", "message"),
    [
        (["--engine", "vllm"], False, ImportError, "vLLM is not installed. pip install vllm"),
        (["--engine", "vllm", "--int4"], True, ValueError, "Found --int4 with --engine vllm"),
        (["--engine", "vllm", "--device", "cuda:1"], True, ValueError, "Found --device with --engine vllm"),
        (["--", "--max-num-seqs", "4"], False, ValueError, "Found --max-num-seqs 4 after --, which is for vLLM"),
        (["--engine", "transformers", "--", "-x"], True, ValueError, "Found -x after --, which is for vLLM"),
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


def test_for_other_commands_two_dashes_are_those_of_argparse():
    """What stands after them is no option, whatever it begins with."""
    assert arguments.parse(["--debug", "describe", "--json", "--", "-odd.png"]).pictures == ["-odd.png"]
    assert arguments.parse(["chat", "--", "serve"]).model == "serve"


def test_an_engine_that_is_missing_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert main(["serve", "--port", "0", "--engine", "vllm"]) == 1
    assert capsys.readouterr().err.startswith("error: vLLM is not installed.")
