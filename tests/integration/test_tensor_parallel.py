"""Two processes on the CPU share a model's tensors (gloo) and give the logits of one."""

import json
import os
import subprocess
import sys

import pytest
import torch

from family import VL_FAMILIES

PROGRAM = """
import json, sys, torch
import deepseek_vl_hf
from transformers import AutoModelForImageTextToText
folder, inputs, output = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, tp_plan="auto").eval()
with torch.no_grad():
    logits = model(**torch.load(inputs, weights_only=True)).logits
if torch.distributed.get_rank() == 0:
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    torch.save(logits, output)
    print(json.dumps({"world": torch.distributed.get_world_size(), "rows": weight.to_local().shape[0]}))
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("family", VL_FAMILIES, indirect=True, scope="session")
def test_two_processes_equal_one(family, tmp_path, relative):
    (tmp_path / "program.py").write_text(PROGRAM)
    inputs = dict(family.inputs(0))
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [tmp_path / "program.py", family.converted, tmp_path / "inputs.pt", tmp_path / "logits.pt"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))
    rows = family.model.model.language_model.layers[0].self_attn.q_proj.out_features
    assert report == {"world": 2, "rows": rows // 2}
    with torch.no_grad():
        expected = family.model(**inputs).logits
    # Measured 2e-6: the partial sums are added in another order.
    assert relative(torch.load(tmp_path / "logits.pt", weights_only=True), expected) <= 1e-5
