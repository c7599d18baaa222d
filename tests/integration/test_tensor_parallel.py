"""Two processes on the CPU share a model's tensors, its experts or (FSDP) their rows, and give the logits of one."""

import inspect
import json
import os
import subprocess
import sys

import pytest
import torch
from transformers.distributed import DistributedConfig
from transformers.integrations.tensor_parallel import ALL_PARALLEL_STYLES

from family import VL_FAMILIES

LOADS_FOR_FSDP = "fsdp_size" in inspect.signature(DistributedConfig).parameters
HAS_EXPERT_PARALLELISM = "ep_dispatch_experts" in ALL_PARALLEL_STYLES
# Two processes take longer to start than for all that they do, so one launch serves all tests.
WAYS = [(name, "tensors") for name in (*VL_FAMILIES, "vl2_mha", "vl2_sigmoid")]
WAYS += [("vl2_sigmoid", "experts")] * HAS_EXPERT_PARALLELISM + [("vl2_mha", "rows")] * LOADS_FOR_FSDP
PROGRAM = """
import json, os, sys, torch
from pathlib import Path
import deepseek_vl_hf
from transformers import AutoModelForImageTextToText

torch.distributed.init_process_group("gloo")
work = Path(sys.argv[1])
for name, checkpoint, how in json.loads((work / "ways.json").read_text()):
    if how == "tensors":
        settings = {"tp_plan": "auto"}
    else:
        from transformers.distributed import DistributedConfig
        sizes = {"experts": {"tp_size": 2, "ep_size": 2}, "rows": {"fsdp_size": 2}}[how]
        settings = {"distributed_config": DistributedConfig(**sizes)}
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32, **settings).eval()
    inputs = torch.load(work / f"{name}.pt", weights_only=True)
    with torch.no_grad():
        logits = model(**inputs).logits
        generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    if torch.distributed.get_rank() == 0:
        layer = model.model.language_model.layers[-1]
        report = {"world": torch.distributed.get_world_size()}
        report["q_proj"] = layer.self_attn.q_proj.weight.to_local().shape[0]
        if hasattr(layer.mlp, "experts"):
            report["experts"] = list(layer.mlp.experts.gate_up_proj.to_local().shape[:2])
        torch.save({"report": report, "logits": logits, "generated": generated}, work / f"{name}-{how}.pt")
# gloo may abort a process that ends while another one still talks to it, or while its own threads do.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)
"""


@pytest.fixture(scope="module")
def in_two_processes(families, tmp_path_factory):
    """What both processes report, and what they computed for a family's first case, shared out in one of the ways."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "ways.json").write_text(json.dumps([(name, str(families[name].converted), how) for name, how in WAYS]))
    for name in {name for name, _ in WAYS}:
        torch.save(dict(families[name].inputs(0)), folder / f"{name}.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [folder / "program.py", folder]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stderr

    def found(name, how):
        results = torch.load(folder / f"{name}-{how}.pt", weights_only=True)
        return results.pop("report"), results

    return found


def assert_equal_to_one_process(family, results, relative):
    inputs = family.inputs(0)
    with torch.no_grad():
        expected = family.model(**inputs).logits
    # Measured 2e-6: the partial sums are added in another order.
    assert relative(results["logits"], expected) <= 1e-5
    assert torch.equal(results["generated"], family.model.generate(**inputs, max_new_tokens=4, do_sample=False))


@pytest.mark.parametrize("name", [*VL_FAMILIES, "vl2_mha", "vl2_sigmoid"])
def test_two_processes_equal_one(families, name, in_two_processes, relative):
    family = families[name]
    report, results = in_two_processes(name, "tensors")
    layer = family.model.model.language_model.layers[-1]
    expected = {"world": 2, "q_proj": layer.self_attn.q_proj.out_features // 2}
    if family.is_vl2:  # every expert's width is shared out
        experts, width, _ = layer.mlp.experts.gate_up_proj.shape
        expected["experts"] = [experts, width // 2]
    assert report == expected
    assert_equal_to_one_process(family, results, relative)


@pytest.mark.skipif(not HAS_EXPERT_PARALLELISM, reason="this transformers has no expert parallelism of this kind")
@pytest.mark.parametrize("name", ["vl2_sigmoid"])
def test_two_processes_with_half_the_experts_each(families, name, in_two_processes, relative):
    family = families[name]
    report, results = in_two_processes(name, "experts")
    experts, width, _ = family.model.model.language_model.layers[-1].mlp.experts.gate_up_proj.shape
    assert report["experts"] == [experts // 2, width]
    assert_equal_to_one_process(family, results, relative)


@pytest.mark.skipif(not LOADS_FOR_FSDP, reason="this transformers does not load for FSDP by itself")
def test_two_processes_with_half_the_rows_each(families, in_two_processes, relative):
    """Loading for FSDP passes the check of missing weights, and experts are gathered as any other tensor."""
    family = families["vl2_mha"]
    report, results = in_two_processes("vl2_mha", "rows")
    layer = family.model.model.language_model.layers[-1]
    experts, width, _ = layer.mlp.experts.gate_up_proj.shape
    assert report == {"world": 2, "q_proj": layer.self_attn.q_proj.out_features // 2, "experts": [experts // 2, width]}
    assert_equal_to_one_process(family, results, relative)
