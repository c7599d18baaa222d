"""What processes do that a launcher started for a test: runs of `deepseek-vl train`, one after the other.

A launch takes longer than all that a test does in it, so a plan (JSON, the only argument) holds several runs.
"""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments
from transformers.distributed import DistributedConfig

from deepseek_vl_hf import ConversationCollator
from deepseek_vl_hf.cli import main
from deepseek_vl_hf.models.pretrained import MultimodalPreTrainedModel
from deepseek_vl_hf.training.data import load_data

RANK = int(os.environ.get("RANK", "0"))
LAST_STEP, BROKEN_STEP = 3, 2


def pretend_to_have_gpus():
    """accelerate spreads weights over GPUs alone. Told that these processes have some, it runs its own code on CPUs."""

    def set_device(self):
        self.device = torch.device("cpu")
        if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
            self.distributed_type = DistributedType.DEEPSPEED

    PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = set_device
    if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        importlib.import_module("deepspeed").comm.init_distributed("gloo", auto_mpi_discovery=False)
    else:
        torch.distributed.init_process_group("gloo")


def break_second_process():
    """Its loss becomes NaN; the first one waits for gradients that never come."""
    compute_loss = Trainer.compute_loss

    def broken(self, *args, **kwargs):
        loss = compute_loss(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == BROKEN_STEP else loss

    if RANK == 1:
        Trainer.compute_loss = broken


def train(*arguments, **environment):
    os.environ.update(environment)
    if main(["train", *arguments]):
        sys.exit(1)


def stop(run, copy):
    """A copy of a run that has ended, as if it had been stopped before its last step."""
    if RANK == 0:
        shutil.copytree(run, copy)
        shutil.rmtree(Path(copy) / f"checkpoint-{LAST_STEP}")
        described = json.loads((Path(run) / "run.json").read_text())
        for path in Path(copy).iterdir():
            if path.is_file():
                path.unlink()
        del described["finished"]
        (Path(copy) / "run.json").write_text(json.dumps(described))
    torch.distributed.barrier()


def share(model, data, output, **sizes):
    """Training with transformers' own `Trainer` of a model that it shares out itself: tensors, experts or rows."""
    for name in [name for name in os.environ if name.startswith(("FSDP_", "ACCELERATE_USE_"))]:
        del os.environ[name]
    processor = AutoProcessor.from_pretrained(model)
    shared = {"distributed_config": DistributedConfig(**sizes)} if sizes else {}
    network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32, **shared)
    network.config.text_config.output_router_logits = True
    batches = sizes.get("fsdp_size", 1)
    trainer = Trainer(
        model=network,
        args=TrainingArguments(
            output_dir=output,
            max_steps=2,
            per_device_train_batch_size=4 // batches,
            learning_rate=0.1,
            lr_scheduler_type="constant",
            optim="sgd",
            use_cpu=True,
            remove_unused_columns=False,
            report_to=[],
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=load_data(data, processor.image_token).rows,
        data_collator=ConversationCollator(processor, answers_only=True, picture_in_every_batch=batches > 1),
    )
    trainer.train()
    trainer.save_model(output)
    if trainer.is_world_process_zero():
        (Path(output) / "loss.json").write_text(
            json.dumps([each for each in trainer.state.log_history if "loss" in each])
        )


def carry_out(plan):
    if plan.get("gpus"):
        pretend_to_have_gpus()
        MultimodalPreTrainedModel._image_batch_size = 1  # towers would run as often as there are pictures
    if plan.get("broken"):
        break_second_process()
    torch.distributed.destroy_process_group = lambda *_: None  # the next run goes on with it
    sys.modules["matplotlib"] = None  # a picture takes as long as a step
    for do, arguments, options in plan["runs"]:
        {"train": train, "stop": stop, "share": share}[do](*arguments, **options)


if __name__ == "__main__":
    carry_out(json.loads(Path(sys.argv[1]).read_text()))
