"""Shared fixtures: the original's numbers, and the fixture checkpoints converted once per session."""

import copy
import json
import logging
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import deepseek_vl_hf
from deepseek_vl_hf.checkpoints import convert_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
IMAGES = FIXTURES / "images"
FAMILIES = ("vl", "vl_hybrid")


def pytest_addoption(parser):
    parser.addoption("--full-size", action="store_true", help="also build models of the published sizes")


@dataclass
class FamilyFixture:
    """One family: an original checkpoint, the numbers that the original code gave for it, the converted checkpoint."""

    name: str
    converted: Path

    @property
    def original(self) -> Path:
        return FIXTURES / self.name / "checkpoint"

    @cached_property
    def cases(self) -> dict[str, Any]:
        return json.loads((FIXTURES / self.name / "cases.json").read_text(encoding="utf-8"))

    @cached_property
    def expected(self) -> dict[str, torch.Tensor]:
        return load_file(FIXTURES / self.name / "expected.safetensors")

    @cached_property
    def conversations(self) -> list[list[dict[str, Any]]]:
        """In the original's message shape, with paths that can be opened."""
        result = copy.deepcopy(self.cases["conversations"])
        for message in (message for conversation in result for message in conversation):
            if "images" in message:
                message["images"] = [str(IMAGES / name) for name in message["images"]]
        return result

    @cached_property
    def processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.converted)

    @cached_property
    def model(self) -> Any:
        """In float32; tests must not change it."""
        return self.load()

    def load(self, dtype: torch.dtype = torch.float32) -> Any:
        return AutoModelForImageTextToText.from_pretrained(self.converted, dtype=dtype).eval()

    def inputs(self, case: int) -> Any:
        """Model inputs of one case, made as a user makes them."""
        return self.processor.apply_chat_template(
            self.conversations[case], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )

    def pixels(self, case: int) -> dict[str, torch.Tensor]:
        """The image inputs of one case alone."""
        return {name: value for name, value in self.inputs(case).items() if "pixel_values" in name}

    def batch(self, rows: list[int]) -> Any:
        """The same of several cases, padded."""
        return self.processor.apply_chat_template(
            [self.conversations[case] for case in rows],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )


@pytest.fixture(scope="session")
def families(tmp_path_factory) -> dict[str, FamilyFixture]:
    folder = tmp_path_factory.mktemp("converted")
    result = {name: FamilyFixture(name, folder / name) for name in FAMILIES}
    for family in result.values():
        convert_checkpoint(family.original, family.converted, report=lambda line: None)
    return result


@pytest.fixture(scope="session", params=FAMILIES)
def family(request, families) -> FamilyFixture:
    """Each family in turn."""
    return families[request.param]


@pytest.fixture(scope="session")
def hybrid(families) -> FamilyFixture:
    return families["vl_hybrid"]


# The one-tower family's pieces by themselves, for tests of what the families share.


@pytest.fixture(scope="session")
def vl(families) -> FamilyFixture:
    return families["vl"]


@pytest.fixture(scope="session")
def original(vl) -> Path:
    return vl.original


@pytest.fixture(scope="session")
def converted(vl) -> Path:
    return vl.converted


@pytest.fixture(scope="session")
def cases(vl) -> dict:
    return vl.cases


@pytest.fixture(scope="session")
def expected(vl) -> dict[str, torch.Tensor]:
    return vl.expected


@pytest.fixture(scope="session")
def conversations(vl) -> list[list[dict]]:
    return vl.conversations


@pytest.fixture(scope="session")
def processor(vl):
    return vl.processor


@pytest.fixture(scope="session")
def model(vl):
    return vl.model


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return FIXTURES


@pytest.fixture(scope="session")
def images() -> Path:
    return IMAGES


@pytest.fixture
def unregistered():
    """transformers as it is without this package."""
    deepseek_vl_hf.unregister()
    yield
    deepseek_vl_hf.register()


class DeprecationCollector(logging.Handler):
    """transformers announces many removals through its logger rather than by warnings."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        message = record.getMessage()
        if re.search("deprecat|will be removed", message, re.IGNORECASE):
            self.messages.append(message)


# What the library says of its own code, not of ours: the pipeline of older versions passes both to generate.
DEPRECATIONS_OF_OTHERS = ("Passing `generation_config` together with generation-related arguments",)


@pytest.fixture(autouse=True)
def _no_deprecations():
    """Fails a test in which transformers announces the removal of something that was used."""
    collector = DeprecationCollector()
    logger = logging.getLogger("transformers")
    logger.addHandler(collector)
    yield
    logger.removeHandler(collector)
    ours = [message for message in collector.messages if not message.startswith(DEPRECATIONS_OF_OTHERS)]
    assert not ours, ours


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over largest expected magnitude."""
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="session")
def relative():
    return relative_error
