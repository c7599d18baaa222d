"""The published checkpoints with their real weights, where the Hub or a folder with them is at hand."""

import json
from pathlib import Path

import pytest

from deepseek_vl_hf.checkpoints.conversion.real import verify_checkpoint
from deepseek_vl_hf.checkpoints.layouts.files import local_folder

REPOSITORIES = [
    name
    for family in json.loads((Path(__file__).parents[2] / "docs" / "checkpoints.json").read_text())["families"]
    for name in (*family["original"], *family["transformers_layout"])
]


@pytest.mark.hub
@pytest.mark.parametrize("repository", REPOSITORIES)
def test_published_checkpoint(repository, request, tmp_path):
    folder = request.config.getoption("--published")
    if not folder:
        pytest.skip("needs the real weights (4 or 15 GB each); run with --published FOLDER or --published hub")
    source = repository if folder == "hub" else Path(folder, repository.partition("/")[2])
    if folder != "hub" and not source.is_dir():
        pytest.skip(f"{source} is not there")
    figures = verify_checkpoint(local_folder(source), tmp_path, report=print)
    assert figures["tensors"]["tensors"] > 500
    assert figures["passed"]
    assert figures["prompts_were_run"], "the model does not fit in memory"
