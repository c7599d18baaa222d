"""The conversations of `training.py`, and how each side makes batches of them."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, BatchFeature

from deepseek_vl_hf import ConversationCollator, DeepseekVLHybridImageProcessor, DeepseekVLHybridProcessor
from deepseek_vl_hf.models.steps import IGNORED
from deepseek_vl_hf.training.packing import PackCollator
from port import IMAGE_TOKENS, OURS, PORT, TOKENIZER, PortImageProcessor, PortProcessor

# Ours with one question a row, as the port's user writes them, and with all questions of a picture in a conversation.
SAME_ROWS = f"{OURS}, same rows"
WAYS = (PORT, SAME_ROWS, OURS)
QUESTIONS = (
    ("What is shown here?", "Plain shapes in several colors on a light ground, none of which touches another."),
    ("Which of them is the largest?", "The one in the middle of the picture is larger than all others."),
    ("Are there any words to be read?", "No, nothing is written anywhere in this picture."),
    ("How would you describe its style?", "It is a flat drawing without shading, as children's books have them."),
)
TEXT = ("Name three colors of the rainbow.", "Red, green and violet are three colors of the rainbow.")
SIDE = 1024
# Of the pixels that both sides make of the picture: the towers read numbers from -1 to 1.
PIXEL_TOLERANCE = 0.05

Row = dict[str, Any]


def smooth_picture() -> Image.Image:
    """Colors without edges, of which both sides make nearly the same pixels although they reduce pictures unlike."""
    slope = Image.linear_gradient("L")
    return Image.merge("RGB", (slope, slope.rotate(90), Image.radial_gradient("L"))).resize((SIDE, SIDE))


def conversation(turns: Sequence[tuple[str, str]], picture: bool) -> Row:
    """A row with questions and answers, the picture in front of the first question."""
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(turns):
        image = [{"type": "image", "image": smooth_picture()}] if picture and number == 0 else []
        text = f"\n{question}" if image else question
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": text}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return {"messages": messages, "place": f"the conversation that begins with {turns[0][0]!r}"}


def batches(way: str) -> list[list[Row]]:
    """The rows of each batch: of the first step, which is not timed, and of the second, which is.

    A step is a short conversation without a picture, then the picture's questions; so gradients are there already while
    the larger batch is computed, as in any step of several batches.
    """
    text = conversation([TEXT], picture=False)
    several = [conversation(QUESTIONS, True)] if way == OURS else [conversation([turn], True) for turn in QUESTIONS]
    return [[text], [text], [text], several]


def processors() -> dict[str, Any]:
    """Both sides' processors, with one tokenizer and one chat template."""
    settings = {"tokenizer": AutoTokenizer.from_pretrained(TOKENIZER), "num_image_tokens": IMAGE_TOKENS}
    ours = DeepseekVLHybridProcessor(DeepseekVLHybridImageProcessor(), **settings)
    # As the published files have it; the class has the large pixels' numbers for both.
    pixels = PortImageProcessor(image_mean=ours.image_processor.image_mean, image_std=ours.image_processor.image_std)
    port = PortProcessor(pixels, chat_template=ours.chat_template, **settings)
    return {OURS: ours, PORT: port}


class PortCollator:
    """Batches as the port's user makes them: its processor's, padded on the right, labels on answers alone."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, packs: Sequence[Sequence[Row]]) -> BatchFeature:
        """Makes one batch."""
        batch = self.processor.apply_chat_template(
            [row["messages"] for pack in packs for row in pack],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "padding_side": "right", "return_tensors": "pt"},
        )
        answers = torch.as_tensor(batch.pop("assistant_masks"), dtype=torch.bool)
        batch["labels"] = torch.where(answers, batch["input_ids"], IGNORED)
        return batch


def collator(way: str) -> Any:
    """What makes one side's batches."""
    if way == PORT:
        return PortCollator(processors()[PORT])
    return PackCollator(ConversationCollator(processors()[OURS], answers_only=True))


def check_same_batches() -> dict[str, int]:
    """Compares both sides' batches of the same rows; returns how many tokens and labels the way with one row has.

    Raises:
        ValueError: ids or labels differ, or pixels by more than `PIXEL_TOLERANCE`.
    """
    port, ours = (collator(way)(batches(way)[-1:]) for way in (PORT, SAME_ROWS))
    for name in ("input_ids", "attention_mask", "labels"):
        # The first token's label has no effect: nothing stands before it.
        if not torch.equal(port[name][:, 1:], ours[name][:, 1:]):
            raise ValueError(f"Found other {name} on both sides; expected the same.")
    for name in ("pixel_values", "high_res_pixel_values"):
        difference = (port[name] - ours[name]).abs().max().item()
        if difference > PIXEL_TOLERANCE:
            raise ValueError(f"{name} differ by up to {difference}; at most {PIXEL_TOLERANCE} were expected.")
    joined = collator(OURS)(batches(OURS)[-1:])
    return {
        "tokens_with_one_question_a_row": port["input_ids"].numel(),
        "tokens_with_all_questions_in_a_row": joined["input_ids"].numel(),
        "learnt_tokens": int((port["labels"][:, 1:] != IGNORED).sum()),
    }
