"""Shared fixtures: the original's numbers, and the fixture checkpoint converted once per session."""

import copy
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import deepseek_vl_hf
from deepseek_vl_hf.checkpoints import convert_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
IMAGES = FIXTURES / "images"


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return FIXTURES


@pytest.fixture(scope="session")
def images() -> Path:
    return IMAGES


@pytest.fixture(scope="session")
def original(fixtures) -> Path:
    """The fixture checkpoint in the original layout."""
    return fixtures / "vl" / "checkpoint"


@pytest.fixture(scope="session")
def converted(original, tmp_path_factory) -> Path:
    """The fixture checkpoint in the transformers layout."""
    destination = tmp_path_factory.mktemp("converted") / "vl"
    convert_checkpoint(original, destination, report=lambda line: None)
    return destination


@pytest.fixture(scope="session")
def cases(fixtures) -> dict:
    return json.loads((fixtures / "vl" / "cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def expected(fixtures) -> dict[str, torch.Tensor]:
    return load_file(fixtures / "vl" / "expected.safetensors")


@pytest.fixture(scope="session")
def conversations(cases) -> list[list[dict]]:
    """The fixture's conversations, in the original's message shape, with paths that can be opened."""
    result = copy.deepcopy(cases["conversations"])
    for message in (message for conversation in result for message in conversation):
        if "images" in message:
            message["images"] = [str(IMAGES / name) for name in message["images"]]
    return result


@pytest.fixture(scope="session")
def processor(converted):
    return AutoProcessor.from_pretrained(converted)


@pytest.fixture(scope="session")
def model(converted):
    """The fixture model in float32; tests must not change it."""
    return AutoModelForImageTextToText.from_pretrained(converted, dtype=torch.float32).eval()


@pytest.fixture
def fresh_model(converted):
    """The fixture model in float32, for tests that change it."""
    return AutoModelForImageTextToText.from_pretrained(converted, dtype=torch.float32).eval()


@pytest.fixture
def unregistered():
    """transformers as it is without this package."""
    deepseek_vl_hf.unregister()
    yield
    deepseek_vl_hf.register()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over largest expected magnitude."""
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="session")
def relative():
    return relative_error
