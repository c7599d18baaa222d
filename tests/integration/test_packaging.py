"""Builds sdist and wheel and imports the wheel away from the source tree."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from deepseek_vl_hf import __version__, nano_path
from deepseek_vl_hf.nano.folder import MODELS, PICTURES

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.packaging


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The wheel is built from the sdist, so that a file missing there is missed."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    source.mkdir()
    # A copy, because a build leaves its traces in the tree.
    archive = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in archive.decode().split("\0"):
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "dist"


def test_names(distributions):
    assert {path.name for path in distributions.iterdir()} == {
        f"deepseek_vl_hf-{__version__}.tar.gz",
        f"deepseek_vl_hf-{__version__}-py3-none-any.whl",
    }


def test_sdist_content(distributions):
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "src/deepseek_vl_hf/py.typed"} <= names


def test_the_wheel_works_alone(distributions, tmp_path):
    wheel = next(distributions.glob("*.whl"))
    assert wheel.stat().st_size <= 20_000_000
    with zipfile.ZipFile(wheel) as archive:
        modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
        assert modules <= set(archive.namelist())
        data = {f"{package}/py.typed" for package in ("deepseek_vl_command", "deepseek_vl_hf")}
        data.add("deepseek_vl_hf/checkpoints/conversion/model_card.md.j2")
        for name in MODELS:
            folder = nano_path(name)
            data |= {f"deepseek_vl_hf/nano/{folder.name}/{path.name}" for path in folder.iterdir()}
        data |= {f"deepseek_vl_hf/nano/pictures/{name}.png" for name in PICTURES}
        tasks = ("refcoco_vl2_template_yaml", "refcoco+_bbox_rec_testA_vl2.yaml")
        data |= {f"deepseek_vl_hf/evaluation/tasks/{name}" for name in tasks}
        assert data <= set(archive.namelist())
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert b"deepseek-vl = deepseek_vl_command:main" in archive.read(entry_points)
        archive.extractall(tmp_path / "site")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
import deepseek_vl_hf
assert deepseek_vl_hf.__file__.startswith({str(tmp_path)!r}), deepseek_vl_hf.__file__
from transformers import pipeline
folder = deepseek_vl_hf.nano_path()
assert str(folder).startswith({str(tmp_path)!r}), folder
pipe = pipeline("image-text-to-text", model=folder, dtype="float32")
picture = deepseek_vl_hf.example_picture("shapes")
content = [{{"type": "image", "path": picture}}, {{"type": "text", "text": "\\nWhat color is the star?"}}]
print(pipe(text=[{{"role": "user", "content": content}}], max_new_tokens=5)[0]["generated_text"][-1])
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "'content': ' green'" in result.stdout
