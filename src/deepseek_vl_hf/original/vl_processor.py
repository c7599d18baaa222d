"""The processor of the original DeepSeek-VL, with pixels from 0 to 1 and a row of pictures for each prompt."""

from typing import Any

import torch
from transformers import AutoImageProcessor, BatchFeature

from ..conversation.chat_templates import DEEPSEEK_VL_SYSTEM_PROMPT
from ..models.deepseek_vl.processing_deepseek_vl import DeepseekVLProcessor
from ..models.deepseek_vl_hybrid.processing_deepseek_vl_hybrid import DeepseekVLHybridProcessor
from ..models.original_calls import HIGH_RESOLUTION, LOW_RESOLUTION
from .conversations import Conversation, formatted, get_conv_template
from .outputs import BatchedVLChatProcessorOutput, VLChatProcessorOutput, padded
from .processor import AS_IN_THE_ORIGINAL, OriginalProcessor, check_one_of, warn_of_unread


class VLMImageProcessor:
    """Pictures as pixels from 0 to 1, which the models of `AutoModelForCausalLM` normalize.

    Args:
        image_processor: of DeepSeek-VL or DeepSeek-VL-Hybrid.

    Raises:
        ValueError: it normalizes otherwise than the published models.
    """

    def __init__(self, image_processor: Any) -> None:
        self.own = image_processor
        self.is_hybrid = hasattr(image_processor, "high_res_size")
        self.name = "high_res_pixel_values" if self.is_hybrid else "pixel_values"
        found = {"image_mean and image_std": (image_processor.image_mean, image_processor.image_std)}
        expected = {"image_mean and image_std": LOW_RESOLUTION}
        if self.is_hybrid:
            name = "high_res_image_mean and high_res_image_std"
            found[name] = (image_processor.high_res_image_mean, image_processor.high_res_image_std)
            expected[name] = HIGH_RESOLUTION
        for name, values in found.items():
            if tuple(map(tuple, values)) != expected[name]:
                raise ValueError(
                    f"The checkpoint has {values} as {name}; the original's calls know {expected[name]} alone. Use "
                    "AutoProcessor and AutoModelForImageTextToText."
                )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "VLMImageProcessor":
        """As in transformers, from original and converted checkpoints."""
        return cls(AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs))

    @property
    def image_size(self) -> int:
        """Side of the pixels: of the Hybrid the high resolution."""
        size = self.own.high_res_size if self.is_hybrid else self.own.size
        return int(size["height"])

    @property
    def default_shape(self) -> list[int]:
        """[3, side, side]."""
        return [3, self.image_size, self.image_size]

    def __call__(self, images: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:
        """`pixel_values` [pictures, 3, side, side].

        Raises:
            TypeError, ValueError: what is no picture, or cannot be read.
        """
        pixels = self.own(images, do_normalize=False, return_tensors=return_tensors, **AS_IN_THE_ORIGINAL, **kwargs)
        return BatchFeature({"pixel_values": pixels[self.name]})

    preprocess = __call__


class VLChatProcessor(OriginalProcessor):
    """DeepSeek-VL's and DeepSeek-VL-Hybrid's; see `OriginalProcessor`."""

    own_classes = (DeepseekVLProcessor, DeepseekVLHybridProcessor)
    system_prompt = DEEPSEEK_VL_SYSTEM_PROMPT

    def __init__(self, processor: Any, mask_prompt: bool = True) -> None:
        super().__init__(processor, mask_prompt)
        self.image_processor = VLMImageProcessor(processor.image_processor)
        self.num_image_tokens: int = processor.num_image_tokens

    @property
    def image_tag(self) -> str:
        """What stands for a picture in a prompt."""
        return str(self.image_token)

    @property
    def image_id(self) -> int:
        """Id of a picture's places."""
        return int(self.own.image_token_id)

    def new_chat_template(self) -> Conversation:
        """An empty conversation with the system prompt."""
        conversation = get_conv_template(self.sft_format)
        conversation.set_system_message(self.system_prompt)
        return conversation

    def apply_sft_template_for_multi_turn_prompts(
        self, conversations: list[dict[str, str]], sft_format: str = "deepseek", system_prompt: str = ""
    ) -> str:
        """The prompt's text; see `conversations.formatted`."""
        return formatted(get_conv_template(sft_format), conversations, system_prompt)

    def process_one(
        self, prompt: str | None = None, conversations: Any = None, images: Any = None, **kwargs: Any
    ) -> VLChatProcessorOutput:
        """Prepares one prompt; see `__call__`."""
        check_one_of(prompt, conversations)
        if prompt is None:
            prompt = self.apply_sft_template_for_multi_turn_prompts(conversations, self.sft_format, self.system_prompt)
        images = self.counted(prompt, images)
        inputs = self.own(text=prompt, images=images or None, do_normalize=False, **AS_IN_THE_ORIGINAL)
        pixels = inputs.get(self.image_processor.name, torch.zeros(0, *self.image_processor.default_shape))
        counts = torch.full((len(images),), self.num_image_tokens, dtype=torch.int)
        return VLChatProcessorOutput(prompt, inputs["input_ids"][0], pixels, counts)

    def __call__(
        self,
        *,
        prompt: str | None = None,
        conversations: Any = None,
        images: Any = None,
        force_batchify: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Prepares one prompt, as a batch of one unless `force_batchify` is false.

        Args:
            prompt: the whole prompt's text, which is taken at its word; or
            conversations: messages with `role` and `content`.
            images: the pictures, in the order of their places.
            force_batchify: whether to return a batch.
            **kwargs: not read, as in the original; a warning names them.

        Raises:
            ValueError: both or none of prompt and conversations, or other numbers of pictures than of places.
        """
        warn_of_unread(kwargs)
        prepared = self.process_one(prompt, conversations, images)
        return self.batchify([prepared]) if force_batchify else prepared

    def batchify(self, prepare_list: list[VLChatProcessorOutput]) -> BatchedVLChatProcessorOutput:
        """Joins prompts to a batch; see `BatchedVLChatProcessorOutput`."""
        ids = [prepared.input_ids for prepared in prepare_list]
        counts = [len(prepared.num_image_tokens) for prepared in prepare_list]
        most = max(1, *counts)  # the original has a place for a picture also where there is none
        masks = [
            torch.arange(self.num_image_tokens) < torch.as_tensor(prepared.num_image_tokens).view(-1, 1)
            for prepared in prepare_list
        ]
        rows = len(prepare_list)
        pixels = torch.zeros(rows, most, *self.image_processor.default_shape)
        images_emb_mask = torch.zeros(rows, most, self.num_image_tokens, dtype=torch.bool)
        for row, (prepared, mask, count) in enumerate(zip(prepare_list, masks, counts, strict=True)):
            if count:
                pixels[row, :count] = prepared.pixel_values
                images_emb_mask[row, :count] = mask
        return BatchedVLChatProcessorOutput(
            sft_format=[prepared.sft_format for prepared in prepare_list],
            input_ids=padded(ids, self.pad_id, "left"),
            pixel_values=pixels,
            attention_mask=padded([torch.ones_like(each) for each in ids], 0, "left"),
            images_seq_mask=padded([each == self.image_id for each in ids], False, "left"),
            images_emb_mask=images_emb_mask,
        )
