"""What the originals' processors return: fields by name, with `**`, and as attributes."""

from collections.abc import KeysView
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass
class Fields:
    """A dataclass that is also read as a dict."""

    def keys(self) -> KeysView[str]:
        """The fields' names."""
        return vars(self).keys()

    def __getitem__(self, name: str) -> Any:
        return vars(self)[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def to(self, device: Any, dtype: torch.dtype | None = None) -> "Fields":
        """Moves the tensors; the same object.

        Args:
            device: where to.
            dtype: of the pixels. Left out, they stay float32, and the model rounds them to its own type; the original
                rounded them to bfloat16, whatever the model's type was.
        """
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(device, dtype if value.is_floating_point() else None)
        return self


@dataclass
class VLChatProcessorOutput(Fields):
    """A prompt of DeepSeek-VL and its pictures.

    Attributes:
        sft_format: the prompt's text.
        input_ids: [sequence], with the image token at every place of a picture.
        pixel_values: [pictures, 3, side, side] from 0 to 1; 1024 pixels wide for DeepSeek-VL-Hybrid.
        num_image_tokens: [pictures], places that each takes.
    """

    sft_format: str | None
    input_ids: torch.Tensor
    pixel_values: torch.Tensor
    num_image_tokens: torch.Tensor

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass
class BatchedVLChatProcessorOutput(Fields):
    """Prompts of DeepSeek-VL, padded on the left.

    Attributes:
        sft_format: the prompts' texts.
        input_ids: [batch, sequence].
        pixel_values: [batch, most pictures, 3, side, side]; zeros where a prompt has fewer.
        attention_mask: [batch, sequence], 0 at padding.
        images_seq_mask: bool [batch, sequence], which ids are places of pictures.
        images_emb_mask: bool [batch, most pictures, tokens of a picture], which pictures there are.
    """

    sft_format: list[str | None]
    input_ids: torch.Tensor
    pixel_values: torch.Tensor
    attention_mask: torch.Tensor
    images_seq_mask: torch.Tensor
    images_emb_mask: torch.Tensor


@dataclass
class VL2ChatProcessorOutput(Fields):
    """A prompt of DeepSeek-VL2 and the tiles of its pictures.

    Attributes:
        sft_format: the prompt's text.
        input_ids: [sequence].
        target_ids: [sequence], -100 where nothing is learned.
        images: [tiles, 3, side, side]; one of zeros for text alone.
        images_seq_mask: bool [sequence].
        images_spatial_crop: [pictures, 2], columns and rows of tiles; zeros for text alone.
        num_image_tokens: places that each picture takes.
    """

    sft_format: str
    input_ids: torch.Tensor
    target_ids: torch.Tensor
    images: torch.Tensor
    images_seq_mask: torch.Tensor
    images_spatial_crop: torch.Tensor
    num_image_tokens: list[int]

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass
class BatchCollateOutput(Fields):
    """Prompts of DeepSeek-VL2, padded.

    Attributes:
        sft_format: the prompts' texts.
        input_ids: [batch, sequence].
        labels: [batch, sequence].
        images: [batch, most tiles, 3, side, side]; zeros where a prompt has fewer.
        attention_mask: bool [batch, sequence].
        images_seq_mask: bool [batch, sequence].
        images_spatial_crop: [batch, most pictures, 2].
        seq_lens: lengths without padding.
    """

    sft_format: list[str]
    input_ids: torch.Tensor
    labels: torch.Tensor
    images: torch.Tensor
    attention_mask: torch.Tensor
    images_seq_mask: torch.Tensor
    images_spatial_crop: torch.Tensor
    seq_lens: list[int]


def padded(rows: list[torch.Tensor], value: Any = 0, side: str = "right") -> torch.Tensor:
    """[length of each, ...] -> [rows, longest, ...]."""
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
