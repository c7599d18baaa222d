"""The published sizes with random weights, built and run once. Minutes and gigabytes, so only on request."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Parameters of the published checkpoints without the ones that are stored but never used, the memory that a run took
# beyond the weights (measured 0.6, 1.0 and 0.9 GB), and the tokens of the picture.
SIZES = {
    "deepseek_vl": (1_962_640_384, 2.0, 576),
    "deepseek_vl_hybrid": (7_331_390_721, 2.0, 576),
    "deepseek_vl2": (3_355_263_088, 2.0, 1023),
}


@pytest.mark.full_size
@pytest.mark.parametrize("model_type", SIZES)
def test_published_size(model_type, request):
    if not request.config.getoption("--full-size"):
        pytest.skip("takes minutes and the memory of the whole model; run with --full-size")
    parameters, overhead, tokens = SIZES[model_type]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if free < 2 * parameters / 1e9 + overhead:
        pytest.skip(f"needs {2 * parameters / 1e9 + overhead:.1f} GB of free memory, found {free:.1f} GB")
    command = [sys.executable, ROOT / "benchmarks" / "full_size.py", model_type, "--no-result"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    print(json.dumps({name: figures[name] for name in ("weights_gb", "encode_one_picture", "generate")}))
    assert figures["parameters"] == parameters
    assert figures["finite"]
    assert (figures["image_tokens"], figures["new_tokens"]) == (tokens, 4)
    assert figures["generate"]["peak_gb"] <= figures["weights_gb"] + overhead
