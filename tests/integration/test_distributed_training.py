"""`deepseek-vl train` in two processes on a CPU gives what it gives in one: losses, gradients' norms and weights.

Losses differ by 2e-7 of them, weights by 1e-6 of the largest in their tensor, because sums are formed in another order.
By how much mistakes move losses: the balance loss once per process 3e-5, labels counted in each process by itself 2e-3,
labels on the blank picture of a process without pictures 4e-3.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from addresses import free_port
from deepseek_vl_hf.cli import main
from launched import share

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "training"
PROGRAM = Path(__file__).with_name("launched.py")
COLORS = ("red", "green", "blue", "white", "black", "gray", "pink", "brown")
NOISE, NOISE_OF_WEIGHTS = 5e-6, 1e-5
# AdamW divides by gradients that are noise alone, as those of biases of keys are.
NOISE_OF_ADAMW = 1e-3

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def models(families, folder):
    """In float32, so that results are not rounded before they are compared."""
    found = {name: folder / name for name in ("vl", "vl_hybrid", "vl2_mla", "vl2_sigmoid")}
    for name, path in found.items():
        families[name].load().save_pretrained(path)
        families[name].processor.save_pretrained(path)
    return found


@pytest.fixture(scope="module")
def data(folder):
    """Three rows with a picture, five without: two processes never have equally many of them."""
    rows = []
    for number, color in enumerate(COLORS):
        pictures = [f"{color}.png"] if number % 3 == 0 else []
        Image.new("RGB", (40, 30), color).save(folder / f"{color}.png")
        answer = f"the {color} one" + " indeed" * number
        messages = [{"role": "user", "content": "Which flag is it?"}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages, "images": pictures})
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


COURSE = ("--cpu", "--dtype", "float32", "--max-steps", "3", "--save-steps", "1", "--log-steps", "1")
SGD = ("--optimizer", "sgd", "--learning-rate", "0.3", "--batch-size", "8", "--device-batch-size", "2")
ADAMW = ("--learning-rate", "0.001", "--batch-size", "8", "--device-batch-size", "4")
PACKS = ("--pack", "--max-length", "480", "--batch-size", "2", "--device-batch-size", "1")


@pytest.fixture(scope="module")
def words(models, data):
    """The command line of a run."""
    return lambda name, output, *recipe: [
        str(data),
        "--model",
        str(models[name]),
        "--output",
        str(output),
        *COURSE,
        *recipe,
    ]


@pytest.fixture(scope="module")
def alone(words, folder):
    """The folder of a run in one process, which is there only once."""
    done = {}

    def run(name, *recipe):
        if (name, recipe) not in done:
            output = folder / f"alone-{len(done)}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(sys.modules, "matplotlib", None)
                assert main(["train", *words(name, output, *recipe)]) == 0
            done[name, recipe] = output
        return done[name, recipe]

    return run


def launch(launcher, program, folder, seconds=120, gpus=""):
    """How two processes end, and what they print; all of them end in time.

    Args:
        launcher: a module and its arguments.
        program: what it starts.
        folder: for temporary files.
        seconds: after which all of them are killed.
        gpus: that they see.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    command = [sys.executable, "-m", *map(str, launcher), *map(str, program)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment, "DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        told, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        for each in (*psutil.Process(process.pid).children(recursive=True), process):  # they lead groups of their own
            each.kill()
        told, _ = process.communicate()
        pytest.fail(f"two processes did not end within {seconds} s:\n{told}")
    return process.returncode, told


def by_torch():
    return ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]


def by_accelerate(config):
    numbers = ["--num_processes", "2", "--main_process_port", free_port()]
    return ["accelerate.commands.launch", "--config_file", CONFIGS / config, *numbers]


def carry_out(launcher, folder, *runs, **plan):
    """Has `launched.py` carry out a plan."""
    path = folder / f"plan-{free_port()}.json"
    path.write_text(json.dumps({"runs": runs, **plan}))
    return launch(launcher, [PROGRAM, path], folder)


def weights(run):
    return {name: tensor for path in run.glob("*.safetensors") for name, tensor in load_file(path).items()}


def logged(run, name):
    return [entry[name] for entry in json.loads((run / "loss.json").read_text()) if name in entry]


def assert_same(found, expected, noise=NOISE_OF_WEIGHTS):
    """The same course and the same weights, up to noise."""
    for name in ("loss", "grad_norm"):
        assert logged(found, name) == pytest.approx(logged(expected, name), rel=NOISE)
    there, here = weights(expected), weights(found)
    assert there.keys() == here.keys()
    errors = {name: ((here[name] - there[name]).abs().max() / there[name].abs().max()).item() for name in there}
    assert max(errors.values()) <= noise, max(errors, key=errors.get)


def assert_equal_to_the_bit(found, expected):
    there, here = weights(expected), weights(found)
    assert [name for name in there if not torch.equal(here[name], there[name])] == []
    assert logged(found, "loss") == logged(expected, "loss")


def test_the_command_under_its_launcher(words, alone, folder):
    """Nothing stands between accelerate's launcher and the command."""
    recipe = ("--lora", "4", "--checkpointing", *SGD)
    output = folder / "command"
    status, told = launch(
        by_accelerate("ddp.yaml"), ["-m", "deepseek_vl_hf", "train", *words("vl", output, *recipe)], folder
    )
    assert status == 0, told
    assert told.count(f"Wrote {output}") == 1  # one of them speaks
    assert_same(output, alone("vl", *recipe))


@pytest.fixture(scope="module")
def broken(words, folder):
    """A run whose second process came to a loss that is no number: folder, how it ended, what it said."""
    output = folder / "broken"
    run = ("train", words("vl", output, "--full", *ADAMW), {})
    return output, *carry_out(by_torch(), folder, run, broken=True)


def test_an_error_of_one_process_is_told_once_and_ends_both(broken):
    output, status, told = broken
    assert status != 0
    (error,) = re.findall("^error: .*", told, re.MULTILINE)
    assert re.fullmatch(r"error: The loss of step 3 is nan, of these rows: (.*rows.jsonl, line \d.*){4}", error)
    assert (output / "checkpoint-2" / "trainer_state.json").is_file()


def test_two_processes_equal_one(words, alone, broken, data, folder):
    """Checkpointing, packs, 4 bits, held-out rows, a run that goes on; the balance loss with packs."""
    held_out = ("--eval", str(data), "--answers", "2")
    recipes = {
        "vl_hybrid": ("--full", "--checkpointing", *SGD, *held_out),
        "vl2_sigmoid": ("--full", *SGD, *PACKS),
        "vl2_mla": ("--lora", "4", "--int4", *SGD),
    }
    runs = [("train", words(name, folder / f"two-{name}", *recipe), {}) for name, recipe in recipes.items()]
    runs.append(("train", words("vl", broken[0], "--full", *ADAMW, "--resume"), {}))
    status, told = carry_out(by_torch(), folder, *runs)
    assert status == 0, told
    assert f"Going on from {broken[0] / 'checkpoint-2'}" in told
    assert_same(broken[0], alone("vl", "--full", *ADAMW), NOISE_OF_ADAMW)
    for name, recipe in recipes.items():
        # The loss of held-out rows is the mean over what is seen at once, in both processes together.
        at_once = ("--device-batch-size", "4") if name == "vl_hybrid" else ()
        assert_same(folder / f"two-{name}", alone(name, *recipe, *at_once))
    found, expected = folder / "two-vl_hybrid", alone("vl_hybrid", *recipes["vl_hybrid"], "--device-batch-size", "4")
    assert logged(found, "eval_loss") == pytest.approx(logged(expected, "eval_loss"), rel=NOISE)
    assert len(logged(found, "eval_loss")) == 3
    assert (found / "answers-3.jsonl").read_text() == (expected / "answers-3.jsonl").read_text()


@pytest.fixture(scope="module")
def spread(words, models, data, folder):
    """Runs with weights spread over processes, each followed by one that goes on where it is made to look stopped."""
    kinds = {
        "sharded": (("vl2_sigmoid", "--full", "--checkpointing", *ADAMW), "SHARDED_STATE_DICT"),
        "whole": (("vl_hybrid", "--lora", "4", *ADAMW), "FULL_STATE_DICT"),
    }
    runs = []
    for kind, (recipe, form) in kinds.items():
        first, second = folder / kind, folder / f"{kind}-resumed"
        runs.append(("train", words(recipe[0], first, *recipe[1:]), {"FSDP_STATE_DICT_TYPE": form}))
        runs.append(("stop", [str(first), str(second)], {}))
        runs.append(("train", words(recipe[0], second, *recipe[1:], "--resume"), {"FSDP_STATE_DICT_TYPE": form}))
    for name, sizes in SHARES.items():
        runs.append(("share", [str(models["vl2_sigmoid"]), str(data), str(folder / name)], sizes))
    status, told = carry_out(by_accelerate("fsdp2.yaml"), folder, *runs, gpus=True)
    assert status == 0, told
    return {kind: recipe for kind, (recipe, _) in kinds.items()}, told


SHARES = {"tensors": {"tp_size": 2}, "experts": {"tp_size": 2, "ep_size": 2}, "rows": {"fsdp_size": 2}}


@pytest.mark.parametrize("kind", ["sharded", "whole"])
def test_weights_spread_by_accelerate(spread, alone, folder, kind):
    """FSDP2 as `fsdp2.yaml` has it; a run goes on from checkpoints in either form as if it had not been stopped."""
    recipes, told = spread
    name, *recipe = recipes[kind]
    assert_same(folder / kind, alone(name, *recipe), NOISE_OF_ADAMW)
    assert f"Going on from {folder / kind}-resumed/checkpoint-2" in told
    assert_equal_to_the_bit(folder / f"{kind}-resumed", folder / kind)


@pytest.mark.parametrize("name", SHARES)
def test_a_model_that_transformers_shares_out(spread, models, data, folder, name):
    """Tensors, experts, or rows of all tensors (FSDP2), with transformers' own `Trainer` and the balance loss."""
    if not (folder / "one").exists():
        share(str(models["vl2_sigmoid"]), str(data), str(folder / "one"))
    assert_same(folder / name, folder / "one")


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
def test_weights_spread_by_deepspeed(words, alone, folder):
    """ZeRO-3 as `zero3.yaml` has it; with modules called in other orders in each process, it would stall."""
    output, recipe = folder / "zero3", ("--full", "--checkpointing", *ADAMW)
    run = ("train", words("vl2_sigmoid", output, *recipe), {})
    stop = ("stop", [str(output), f"{output}-resumed"], {})
    resumed = ("train", words("vl2_sigmoid", f"{output}-resumed", *recipe, "--resume"), {})
    status, told = carry_out(by_accelerate("zero3.yaml"), folder, run, stop, resumed, gpus=True)
    assert status == 0, told
    assert_same(output, alone("vl2_sigmoid", *recipe), NOISE_OF_ADAMW)
    assert_equal_to_the_bit(folder / "zero3-resumed", output)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("recipe", [("--full", "--checkpointing"), ("--lora", "4")])
def test_weights_spread_over_two_gpus(models, data, tmp_path, recipe):
    """The command as it stands in the manual; bfloat16, in which single losses differ in the third digit."""
    course = ("--max-steps", "3", "--log-steps", "1", *ADAMW)
    outputs = [tmp_path / "one", tmp_path / "two"]
    commands = [
        ["train", data, "--model", models["vl2_sigmoid"], "--output", each, *course, *recipe] for each in outputs
    ]
    one = launch(["deepseek_vl_hf"], commands[0], tmp_path, gpus="0")
    two = launch(by_accelerate("fsdp2.yaml"), ["-m", "deepseek_vl_hf", *commands[1]], tmp_path, gpus="0,1")
    assert (one[0], two[0]) == (0, 0), one[1] + two[1]
    assert logged(outputs[1], "loss") == pytest.approx(logged(outputs[0], "loss"), rel=1e-2)
