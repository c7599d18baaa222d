"""Batches for training: what is learned from, what is cut, and what is refused."""

import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from conversations import text
from deepseek_vl_hf import ConversationCollator

PICTURE = Image.new("RGB", (40, 30), "red")
IMAGE = {"type": "image", "image": PICTURE}


def turn(role, *content):
    return {"role": role, "content": list(content)}


def dialogue(*answers, images=1):
    """Questions with their answers, the pictures in front of the first question."""
    messages = []
    for number, answer in enumerate(answers):
        pictures = [IMAGE] * images if number == 0 else []
        messages += [turn("user", *pictures, text(f"Question {number}?")), turn("assistant", text(answer))]
    return messages


@pytest.fixture(scope="module")
def processor(family):
    return family.processor


@pytest.fixture(scope="module")
def collate(processor):
    return ConversationCollator(processor)


@pytest.fixture(scope="module")
def tokens(processor, collate):
    """Of one picture."""
    return int((collate([dialogue("Red.")])["input_ids"] == processor.image_token_id).sum())


@pytest.fixture(scope="module")
def gap(family):
    """What stands in front of an answer."""
    return "" if family.has_experts else " "


def num_images(batch):
    return len(batch.get("tile_grids", batch["pixel_values"]))


def learned(processor, batch, row):
    """The texts that labels stand for, one per run of them; the first token's label has no effect."""
    assert batch["labels"][row, 0] == batch["input_ids"][row, 0] == processor.tokenizer.bos_token_id
    runs, before = [], -100
    for label in batch["labels"][row, 1:].tolist():
        if label != -100 and before == -100:
            runs.append([])
        if label != -100:
            runs[-1].append(label)
        before = label
    return [processor.tokenizer.decode(run) for run in runs]


def test_answers_and_their_eos_are_learned_and_nothing_else(processor, collate, gap):
    rows = [dialogue("Red.", "No, just one."), dialogue("A longer answer than that of the first row.", images=2)]
    batch = collate([{"messages": rows[0]}, rows[1]])
    eos = processor.tokenizer.eos_token
    assert learned(processor, batch, 0) == [f"{gap}Red.{eos}", f"{gap}No, just one.{eos}"]
    assert learned(processor, batch, 1) == [f"{gap}A longer answer than that of the first row.{eos}"]
    kept = batch["labels"] != -100
    assert torch.equal(batch["labels"][kept], batch["input_ids"][kept])


def test_the_ids_are_those_of_the_chat_template(processor, collate):
    rows = [
        dialogue("Red.", "Yes."),
        dialogue("Blue.", images=2),
        [turn("user", text("Hi")), turn("assistant", text("Ho"))],
    ]
    batch = collate(rows)
    for number, row in enumerate(rows):
        alone = processor.apply_chat_template(row, tokenize=True, return_dict=True, return_tensors="pt")["input_ids"][0]
        assert batch["input_ids"][number, : len(alone)].tolist() == alone.tolist()
        assert (batch["input_ids"][number, len(alone) :] == processor.tokenizer.pad_token_id).all()
        assert batch["attention_mask"][number].sum() == len(alone)
        assert (batch["labels"][number, len(alone) :] == -100).all()


def test_pixels_are_those_of_the_processor(family, collate, images):
    names = ["wide.png", "tall.png"]
    rows = [
        [turn("user", {"type": "image", "path": str(images / name)}, text("?")), turn("assistant", text("!"))]
        for name in names
    ]
    batch = collate(rows)
    expected = family.processor.image_processor([Image.open(images / name) for name in names], return_tensors="pt")
    assert set(expected) == set(batch) - {"input_ids", "attention_mask", "labels"}
    for name, pixels in expected.items():
        assert torch.equal(batch[name], pixels)


def test_the_loss_of_a_batch_is_the_mean_over_its_answers(family, collate):
    rows = [dialogue("Red."), dialogue("Two things.", "And a third one.")]
    sums = counts = 0
    with torch.no_grad():
        for row in rows:
            batch = collate([row])
            count = (batch["labels"][:, 1:] != -100).sum()
            sums, counts = sums + family.model(**batch).loss * count, counts + count
        together = family.model(**collate(rows)).loss
    assert torch.allclose(together, sums / counts, rtol=1e-4)


def rows_of_all_kinds(family):
    """With a picture, with several, with none; one turn and two."""
    pictures = [Image.new("RGB", (60, 40), color) for color in ("red", "green", "blue")]
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return [
        [turn("user", parts[0], text("Which?")), turn("assistant", text("Red.")), *dialogue("Yes.", images=0)],
        [turn("user", text("Nothing to see?")), turn("assistant", text("No, nothing at all."))],
        [turn("user", *parts[1:], text("And these?")), turn("assistant", text("Green and blue."))],
    ]


@pytest.mark.parametrize("settings", [{"packed": True}, {"answers_only": True}, {"packed": True, "answers_only": True}])
def test_packed_batches_and_answers_alone_give_the_same_loss(family, settings, relative):
    """And the same gradients, the balance loss included."""
    rows, model = rows_of_all_kinds(family), family.load().train()
    asked = {"output_router_logits": True} if family.has_experts else {}
    results = []
    for collator in (ConversationCollator(family.processor), ConversationCollator(family.processor, **settings)):
        batch = collator(rows)
        items = (batch["labels"][:, 1:] != -100).sum()
        model.zero_grad()
        output = model(**batch, **asked, num_items_in_batch=items)
        output.loss.backward()
        gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        results.append((items, output, torch.cat(gradients)))
    (items, output, gradients), (other_items, other, other_gradients) = results
    assert items == other_items
    assert other.loss.item() == pytest.approx(output.loss.item(), rel=1e-5)
    # As one: keys' biases change nothing in attention, so their gradients are rounding alone.
    assert relative(other_gradients, gradients) < 1e-5
    if settings.get("answers_only"):
        assert other.logits.shape == (items, output.logits.shape[-1])
    if family.has_experts:
        assert other.aux_loss.item() == pytest.approx(output.aux_loss.item(), rel=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_without_pictures_can_get_a_blank_one(family, packed):
    """It runs the towers and teaches nothing."""
    rows = [dialogue("Nothing.", images=0), dialogue("Nothing at all.", images=0)]
    model = family.load().train()
    asked = {"output_router_logits": True} if family.has_experts else {}
    losses = []
    for blank in (False, True):
        collator = ConversationCollator(family.processor, packed=packed, picture_in_every_batch=blank)
        batch = collator(rows)
        assert ("pixel_values" in batch) == blank
        model.zero_grad()
        losses.append(model(**batch, **asked, num_items_in_batch=(batch["labels"][:, 1:] != -100).sum()).loss)
    losses[-1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    towers = [weight for name, weight in model.named_parameters() if "language_model" not in name]
    assert all(weight.grad is not None for weight in towers)
    assert all((weight.grad == 0).all() for name, weight in model.named_parameters() if "vision_model" in name)
    with_one = ConversationCollator(family.processor, packed=packed, picture_in_every_batch=True)
    assert num_images(with_one([dialogue("Red.")])) == 1


def test_packed_lengths_can_be_multiples(processor):
    rows = [dialogue("Red."), dialogue("Blue, I think.", images=0)]
    whole = ConversationCollator(processor, packed=True)(rows)
    padded = ConversationCollator(processor, packed=True, pad_to_multiple_of=64)(rows)
    length = whole["input_ids"].shape[1]
    assert padded["input_ids"].shape[1] % 64 == 0
    assert all(torch.equal(padded[name][:, :length], whole[name]) for name in ("input_ids", "position_ids", "labels"))
    assert (padded["labels"][:, length:] == -100).all()
    assert padded["position_ids"][0, length] == 0


def test_the_originals_messages(processor, collate, gap):
    row = [
        {"role": "User", "content": f"{processor.image_token}What?", "images": [PICTURE]},
        {"role": "Assistant", "content": "That."},
    ]
    assert learned(processor, collate([row]), 0) == [f"{gap}That.{processor.tokenizer.eos_token}"]


def test_labels_are_those_of_the_original(vl2, images):
    """A finished conversation, with the prompt masked and with all text to be learned."""
    row = vl2.cases["train_conversation"]
    row = [{**message, "images": [str(images / name) for name in message.get("images", [])]} for message in row]
    for masked, name in ((True, "train.labels"), (False, "train.labels_prompt_kept")):
        batch = ConversationCollator(vl2.processor, mask_prompt=masked)([row])
        assert batch["input_ids"][0].tolist() == vl2.expected["train.input_ids"].tolist()
        assert batch["labels"][0].tolist() == vl2.expected[name].tolist()


def test_prompts_can_be_learned_too(processor):
    batch = ConversationCollator(processor, mask_prompt=False)([dialogue("Red."), dialogue("Yes.", images=2)])
    masked = batch["labels"] == -100
    assert torch.equal(masked, (batch["input_ids"] == processor.image_token_id) | (batch["attention_mask"] == 0))


def test_a_batch_without_pictures(collate):
    batch = collate([[turn("user", text("Hi")), turn("assistant", text("Ho"))]])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_control_tokens_in_typed_text_are_text(processor, collate, tokens):
    answer = f"Say {processor.image_token}{processor.tokenizer.eos_token} twice."
    batch = collate([dialogue(answer)])
    assert (batch["input_ids"] == processor.image_token_id).sum() == tokens
    assert (batch["labels"] == processor.tokenizer.eos_token_id).sum() == 1


def test_lengths_can_be_multiples(processor):
    batch = ConversationCollator(processor, pad_to_multiple_of=64)([dialogue("Red.")])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].shape[1] % 64 == 0


# Truncation


def two_pictures_apart():
    """An answer, then a second picture and an answer about it."""
    first = dialogue("Red.")
    return [*first, turn("user", text("And here?"), IMAGE, text("Well?")), turn("assistant", text("Blue."))]


def end_of_second_image(processor, batch):
    return int((batch["input_ids"][0] == processor.image_token_id).nonzero()[-1]) + 1


@pytest.mark.parametrize("inside", [1, 300, -1])
def test_a_cut_through_an_image_leaves_the_image_out(processor, collate, tokens, gap, inside):
    row = two_pictures_apart()
    whole = collate([row])
    start = end_of_second_image(processor, whole) - tokens
    inside = inside % tokens
    batch = ConversationCollator(processor, max_length=start + inside, truncation=True)([row])
    assert batch["input_ids"].tolist() == whole["input_ids"][:, :start].tolist()
    assert learned(processor, batch, 0) == [f"{gap}Red.{processor.tokenizer.eos_token}"]
    alone = collate([dialogue("Red.")])
    for name in set(whole) - {"input_ids", "attention_mask", "labels"}:
        assert torch.equal(batch[name], alone[name])


def test_a_cut_behind_an_image_keeps_it(processor, collate):
    row = two_pictures_apart()
    whole = collate([row])
    end = end_of_second_image(processor, whole)
    batch = ConversationCollator(processor, max_length=end, truncation=True)([row])
    assert batch["input_ids"].shape[1] == end
    assert num_images(batch) == 2


def test_pictures_of_other_rows_stay_when_one_is_cut_off(processor, collate, tokens):
    short, long = dialogue("Green."), two_pictures_apart()
    end = end_of_second_image(processor, collate([long]))
    batch = ConversationCollator(processor, max_length=end - 1, truncation=True)([long, short])
    assert num_images(batch) == 2
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [tokens, tokens]


def test_a_sequence_over_the_limit_is_refused(processor, tokens):
    message = rf"Row 2 of the batch has \d+ tokens, of which 1 images take \[{tokens}\]; at most 100"
    with pytest.raises(ValueError, match=message):
        ConversationCollator(processor, max_length=100)([[*dialogue("Yes.", images=0)], dialogue("No.")])


def test_the_tokenizers_limit_holds(processor, monkeypatch):
    monkeypatch.setattr(processor.tokenizer, "model_max_length", 250)
    with pytest.raises(ValueError, match="at most 250 are allowed"):
        ConversationCollator(processor)([dialogue("No.")])


def test_a_cut_that_leaves_no_answer_is_refused(processor):
    with pytest.raises(ValueError, match="no answer is left"):
        ConversationCollator(processor, max_length=250, truncation=True)([dialogue("No.")])


@pytest.mark.parametrize("name", ["max_length", "pad_to_multiple_of"])
def test_lengths_below_one_are_refused(processor, name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        ConversationCollator(processor, **{name: 0})


# Bad rows


def test_no_rows(collate):
    with pytest.raises(ValueError, match="batch is empty"):
        collate([])


@pytest.mark.parametrize("answers", [[], [turn("assistant", text("  "))]], ids=["none", "blank"])
def test_a_conversation_without_an_answer(collate, answers):
    with pytest.raises(ValueError, match="Row 2 of the batch: There is no assistant answer"):
        collate([dialogue("Yes."), [turn("user", text("Hi")), *answers]])


def test_a_row_that_is_no_conversation(collate):
    with pytest.raises(ValueError, match=r"Row 1 of the batch: .*expected one list of messages"):
        collate([{"text": "Hi"}])


def test_a_picture_that_is_missing_or_broken(collate, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    for name, message in (("absent.png", "There is no file"), ("broken.png", "No image could be read")):
        path = str(tmp_path / name)
        row = [turn("user", {"type": "image", "path": path}, text("?")), turn("assistant", text("!"))]
        with pytest.raises(ValueError, match=rf"Row 2 of the batch: Picture 1: {message}.*{name}"):
            collate([dialogue("Yes."), row])


# Training


def test_the_trainer_learns(family, collate, tmp_path):
    model = family.load()
    rows = [dialogue("Red."), [turn("user", text("Hi")), turn("assistant", text("Ho"))]]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
        ),
        data_collator=collate,
        train_dataset=rows,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
