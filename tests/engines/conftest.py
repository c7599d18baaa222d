"""Small checkpoints for engines, each written once per session, and what our own code answers."""

import pytest

from asking import Ours
from family import VL2_FAMILIES, VL_FAMILIES
from small_models import write_nano, write_small_model

MODELS = ("nano", *VL_FAMILIES, *VL2_FAMILIES)


@pytest.fixture(scope="session")
def small_models(families, tmp_path_factory):
    """Folders of the checkpoints, by family."""
    root = tmp_path_factory.mktemp("small")
    write_nano(root / "nano")
    for name, family in families.items():
        write_small_model(family, root / name)
    return {name: root / name for name in MODELS}


@pytest.fixture(scope="session")
def ours(small_models):
    """Our own answers, by family."""
    return {name: Ours(folder) for name, folder in small_models.items()}
