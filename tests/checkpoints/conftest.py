import shutil
from pathlib import Path

import pytest

from deepseek_vl_hf.checkpoints import convert_checkpoint


@pytest.fixture
def source(original, tmp_path):
    """A copy of the original checkpoint that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "source"))


@pytest.fixture(scope="session")
def restored(families, tmp_path_factory):
    """By family: its converted checkpoint, converted back to the original layout."""
    folder = tmp_path_factory.mktemp("restored")
    return {
        name: convert_checkpoint(family.converted, folder / name, to="original").folder
        for name, family in families.items()
    }
