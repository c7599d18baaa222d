"""Shared fixtures: all families, each converted once per session, and a watch on deprecations."""

import logging
import os
import re
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
import transformers

import deepseek_vl_hf
from family import FAMILIES, IMAGES, OCR, VL2_FAMILIES, VL_FAMILIES, FamilyFixture, convert_family, relative_error


def pytest_addoption(parser):
    parser.addoption(
        "--published", metavar="FOLDER", help='folder with published checkpoints, or "hub" to download them'
    )
    parser.addoption("--full-size", action="store_true", help="also build models of the published sizes")


@pytest.fixture(scope="session")
def families(tmp_path_factory) -> dict[str, FamilyFixture]:
    folder = tmp_path_factory.mktemp("converted")
    return {name: convert_family(name, folder) for name in (*VL_FAMILIES, *VL2_FAMILIES, OCR)}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, families) -> FamilyFixture:
    """Each family in turn."""
    return families[request.param]


@pytest.fixture(scope="session")
def hybrid(families) -> FamilyFixture:
    return families["vl_hybrid"]


@pytest.fixture(scope="session")
def vl2(families) -> FamilyFixture:
    """DeepSeek-VL2 with multi-head attention, as the tiny size."""
    return families["vl2_mha"]


@pytest.fixture(scope="session")
def ocr(families) -> FamilyFixture:
    return families[OCR]


@pytest.fixture(scope="module")
def model(family):
    """In float32; tests must not change it."""
    return family.model


@pytest.fixture(scope="module")
def inputs(family):
    """Text before an image: 660 tokens with one image, or 468."""
    return family.inputs(family.one_image)


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
def _no_deprecations(request):
    """Fails a test in which transformers announces the removal of something that was used."""
    if request.node.get_closest_marker("uses_old_names"):
        yield
        transformers.utils.logging.get_logger("transformers").warning_once.cache_clear()  # said again to other tests
        return
    collector = DeprecationCollector()
    logger = logging.getLogger("transformers")
    logger.addHandler(collector)
    yield
    logger.removeHandler(collector)
    ours = [message for message in collector.messages if not message.startswith(DEPRECATIONS_OF_OTHERS)]
    assert not ours, ours


@pytest.fixture(scope="session")
def relative():
    return relative_error
