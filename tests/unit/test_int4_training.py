"""Training over 4-bit weights: adapters learn, the weights themselves do not."""

import peft
import pytest
import torch
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments

from deepseek_vl_hf import int4_config

# What peft itself calls.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def int4(family):
    return AutoModelForImageTextToText.from_pretrained(
        family.original, dtype=torch.float32, quantization_config=int4_config(32, "cpu")
    )


@pytest.fixture
def with_adapters(int4):
    config = peft.LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|o_proj|down_proj)", lora_dropout=0.0)
    return peft.get_peft_model(int4, config)


@pytest.fixture
def batch(family):
    inputs = family.inputs(family.one_image)
    return {**inputs, "labels": inputs["input_ids"].clone()}


def test_adapters_learn(with_adapters, batch):
    learning = {name: parameter for name, parameter in with_adapters.named_parameters() if parameter.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    packed = [parameter.qdata.clone() for parameter in with_adapters.parameters() if hasattr(parameter, "qdata")]
    assert packed
    optimizer = torch.optim.AdamW(learning.values(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = with_adapters(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1, losses
    after = [parameter.qdata for parameter in with_adapters.parameters() if hasattr(parameter, "qdata")]
    assert all(torch.equal(*pair) for pair in zip(packed, after, strict=True))


def test_adapters_are_saved_alone(with_adapters, family, tmp_path):
    with torch.no_grad():
        for name, parameter in with_adapters.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    inputs = family.inputs(0)
    with_adapters.save_pretrained(tmp_path)
    base = AutoModelForImageTextToText.from_pretrained(
        family.original, dtype=torch.float32, quantization_config=int4_config(32, "cpu")
    )
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, with_adapters.eval()(**inputs).logits)


def arguments(folder):
    return TrainingArguments(
        output_dir=str(folder), max_steps=3, learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True
    )


def test_trainer_with_adapters(with_adapters, batch, tmp_path):
    rows = [{name: value[0] if name != "pixel_values" else value for name, value in batch.items()}]

    def collate(examples):
        return batch

    trainer = Trainer(with_adapters, arguments(tmp_path), train_dataset=rows * 3, data_collator=collate)
    before = with_adapters(**batch).loss.item()
    trainer.train()
    assert with_adapters(**batch).loss.item() < before - 0.1


def test_trainer_without_adapters(int4, tmp_path):
    with pytest.raises(ValueError, match="attach trainable adapters"):
        Trainer(int4, arguments(tmp_path))


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without:UserWarning")
def test_adapters_are_not_merged(with_adapters):
    """There is no way to add to 4 bits without rounding again; peft says that it cannot."""
    before = [parameter.qdata.clone() for parameter in with_adapters.parameters() if hasattr(parameter, "qdata")]
    with pytest.raises(NotImplementedError, match="do not support dequantization"):
        with_adapters.merge_and_unload()
    after = [parameter.qdata for parameter in with_adapters.parameters() if hasattr(parameter, "qdata")]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
