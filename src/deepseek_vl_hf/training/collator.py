"""From conversations with pictures to training batches: labels, truncation, padding.

rows: conversations whose last assistant turn is an answer
  --chat template, image processor--> ids, which of them the assistant wrote, pixel tensors
  --cut at max_length, never inside an image-->
  --pad on the right--> input_ids, attention_mask, labels [batch, sequence], pixel tensors, one row per image
    or, packed, one after the other--> input_ids, position_ids, labels [1, sequence], the same pixel tensors
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature

from ..conversation.messages import IMAGE_KEYS, Conversation, image_parts
from ..models.steps import IGNORED
from ..pictures.opening import open_image, to_rgb
from .boxes import Objects, write_objects
from .rows import conversation_of, objects_of


@dataclass(frozen=True)
class _Row:
    """One encoded conversation: ids [sequence], labels [sequence], and its pictures' pixel tensors."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    pixels: dict[str, torch.Tensor]


class ConversationCollator:
    """Makes batches for transformers' `Trainer`, or any other loop, out of conversations with pictures.

    The loss falls on what the assistant says, its EOS included; the system prompt, questions, image places and padding
    are -100, as in the last training stage of both papers (arXiv 2403.05525, 2412.10302). With `mask_prompt=False` it
    falls on the prompts' text too, as the published files of DeepSeek-VL2 have it. The first token has a label in any
    case, as in the original; there is nothing before it that could predict it. `Trainer` needs
    `remove_unused_columns=False`, since rows have no columns that a model reads.

    Args:
        processor: a DeepSeek-VL processor.
        max_length: tokens that a sequence may have, image places included; None takes the tokenizer's
            `model_max_length`.
        truncation: cut longer sequences at their end instead of refusing them. An image of which not all places fit is
            left out with everything after it.
        pad_to_multiple_of: pads the batch's length up to a multiple, which compiled models like.
        mask_prompt: whether only answers are learned.
        packed: put the conversations one after the other instead of below each other, so that nothing is padded.
            Positions begin anew with each, by which attention and the balance loss keep them apart.
        answers_only: have logits made only where they are learned from, which saves most of the memory that a large
            vocabulary takes. The model's `logits` are then [positions, vocabulary].
        picture_in_every_batch: give a batch without pictures a blank one, from which nothing is learned. Processes that
            train together need it: each has to run the towers whenever another one does.

    Raises:
        ValueError: `max_length` or `pad_to_multiple_of` is below 1.
    """

    def __init__(
        self,
        processor: Any,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        mask_prompt: bool = True,
        packed: bool = False,
        answers_only: bool = False,
        picture_in_every_batch: bool = False,
    ) -> None:
        for name, value in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected None or a number of tokens of at least 1.")
        self.processor = processor
        self.max_length = max_length or processor.tokenizer.model_max_length
        self.truncation = truncation
        self.pad_to_multiple_of = pad_to_multiple_of or 1
        self.mask_prompt = mask_prompt
        self.packed = packed
        self.answers_only = answers_only
        self.picture_in_every_batch = picture_in_every_batch

    def __call__(self, rows: Sequence[Any]) -> BatchFeature:
        """Makes one batch.

        Args:
            rows: conversations, each a list of messages or a dict with such a list as `messages` or `conversations`.
                Pictures stand in the messages or in a column `images` beside them; `rows.conversation_of` says how.

        Returns:
            `input_ids`, `attention_mask`, `labels` [batch, sequence], padded on the right; packed, `input_ids`,
            `position_ids`, `labels` [1, sequence]. With `answers_only` a mask `logits_to_keep` of the same shape. And
            the image processor's tensors, one row per picture of the batch in the order of their places; without
            pictures there are none.

        Raises:
            ValueError, TypeError: no rows; a row that is no conversation, has no assistant answer, holds what nothing
                reads, has more or fewer pictures than places for them, names a picture that is missing or broken, or is
                too long. The error names the row, counted from one.
        """
        if not rows:
            raise ValueError("The batch is empty; expected at least one conversation.")
        encoded = [self._encode(row, _place(row, number)) for number, row in enumerate(rows, 1)]
        if self.picture_in_every_batch and not any(row.pixels for row in encoded):
            encoded.append(self._blank_row())
        pixels = {
            name: torch.cat([row.pixels[name] for row in encoded if name in row.pixels])
            for name in self.processor.image_processor.model_input_names
            if any(name in row.pixels for row in encoded)
        }
        batch = self._pack(encoded) if self.packed else self._pad(encoded)
        if self.answers_only:
            batch["logits_to_keep"] = functional.pad(batch["labels"][:, 1:] != IGNORED, (0, 1))
        return BatchFeature({**batch, **pixels})

    def _encode(self, row: Any, place: str) -> _Row:
        # Row by row: cut before they are padded, and with an error that names the row.
        ids, answers, pixels = self._render(self.conversation(row, place))
        learned = answers if self.mask_prompt else ids != self.processor.image_token_id
        learned[:1] = True
        return self._cut(_Row(ids, torch.where(learned, ids, IGNORED), pixels), place)

    def _blank_row(self) -> _Row:
        picture = Image.new("RGB", (32, 32))
        ids, _, pixels = self._render([{"role": "user", "content": [{"type": "image", "image": picture}]}])
        return _Row(ids, torch.full_like(ids, IGNORED), pixels)

    def _render(self, conversation: Conversation) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Ids [sequence], which of them the assistant wrote, and the pictures' pixel tensors."""
        encoded = self.processor.apply_chat_template(
            conversation,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            return_tensors="pt",
        )
        pixels = {name: encoded[name] for name in self.processor.image_processor.model_input_names if name in encoded}
        answers = torch.as_tensor(encoded["assistant_masks"], dtype=torch.bool).flatten()
        return encoded["input_ids"].flatten(), answers, pixels

    def conversation(self, row: Any, place: str) -> Conversation:
        """The messages of a row, with every picture opened so that a broken one is named with its row.

        Args:
            row: see `__call__`.
            place: how errors name the row.

        Raises:
            ValueError, TypeError: the row is no conversation, or a picture cannot be opened.
        """
        transparency = self.processor.image_processor.transparency
        try:
            messages = conversation_of(row, self.processor.image_token)
            for number, part in enumerate(image_parts(messages), 1):
                _open(part, number, transparency)
            return self._with_boxes(messages, objects_of(row, messages))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{place}: {error}") from error

    def _with_boxes(self, messages: Conversation, objects: Objects | None) -> Conversation:
        if objects is None:
            return messages
        if not hasattr(self.processor, "post_process_grounding"):
            raise ValueError("Found `objects`, but DeepSeek-VL has no way to write boxes; DeepSeek-VL2 has.")
        return write_objects(messages, objects, [part["image"].size for part in image_parts(messages)])

    def _cut(self, row: _Row, place: str) -> _Row:
        length = len(row.input_ids)
        if length <= self.max_length:
            return row
        image_lengths = self.processor.num_tokens_of_images(row.pixels) if row.pixels else []
        if not self.truncation:
            raise ValueError(
                f"{place} has {length} tokens, of which {len(image_lengths)} images take {image_lengths}; at most "
                f"{self.max_length} are allowed. Shorten the conversation, use fewer or smaller images, raise "
                "max_length, or pass truncation=True."
            )
        end, kept = self._end_outside_images(row.input_ids, image_lengths)
        pixels = self.processor.first_images(row.pixels, kept) if kept else {}
        cut = _Row(row.input_ids[:end], row.labels[:end], pixels)
        if (cut.labels[1:] == IGNORED).all():
            raise ValueError(
                f"{place} has {length} tokens, and cut to {self.max_length} no answer is left to learn from. Raise "
                "max_length, shorten the conversation, or leave the row out."
            )
        return cut

    def _end_outside_images(self, input_ids: torch.Tensor, image_lengths: list[int]) -> tuple[int, int]:
        """Where to cut: at the limit, or in front of the image there. And how many images come before."""
        places = (input_ids == self.processor.image_token_id).nonzero().flatten().tolist()
        first = 0
        for kept, length in enumerate(image_lengths):
            if places[first + length - 1] >= self.max_length:
                return min(self.max_length, places[first]), kept
            first += length
        return self.max_length, len(image_lengths)

    def _pad(self, rows: list[_Row]) -> dict[str, torch.Tensor]:
        return {
            "input_ids": self._below_each_other([row.input_ids for row in rows], self.processor.tokenizer.pad_token_id),
            "attention_mask": self._below_each_other([torch.ones_like(row.input_ids) for row in rows], 0),
            "labels": self._below_each_other([row.labels for row in rows], IGNORED),
        }

    def _pack(self, rows: list[_Row]) -> dict[str, torch.Tensor]:
        # What stands before a conversation's first token is another one's end, from which nothing is to be learned.
        labels = [functional.pad(row.labels[1:], (1, 0), value=IGNORED) for row in rows]
        positions = [torch.arange(len(row.input_ids)) for row in rows]
        missing = -sum(map(len, positions)) % self.pad_to_multiple_of
        padding = torch.full((missing,), self.processor.tokenizer.pad_token_id)
        return {
            "input_ids": torch.cat([*(row.input_ids for row in rows), padding])[None],
            "position_ids": torch.cat([*positions, torch.arange(missing)])[None],
            "labels": torch.cat([*labels, torch.full((missing,), IGNORED)])[None],
        }

    def _below_each_other(self, tensors: list[torch.Tensor], value: int) -> torch.Tensor:
        batch = pad_sequence(tensors, batch_first=True, padding_value=value)
        return functional.pad(batch, (0, -batch.shape[1] % self.pad_to_multiple_of), value=value)


def _place(row: Any, number: int) -> str:
    """How errors name a row: by where it was read from, else by its number."""
    place = row.get("place") if isinstance(row, Mapping) else None
    return str(place or f"Row {number} of the batch")


def _open(part: dict[str, Any], number: int, transparency: str) -> None:
    """Opens the picture of an image part in its place."""
    source = next(part.pop(key) for key in IMAGE_KEYS if key in part)
    try:
        part["image"] = to_rgb(open_image(source), transparency=transparency)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Picture {number}: {error}") from error
