"""The processor of the original DeepSeek-VL2, with a row of tiles for each prompt, and labels."""

from typing import Any

import torch
from transformers.utils import logging

from ..models.deepseek_vl2.processing_deepseek_vl2 import DeepseekVL2Processor
from ..models.steps import IGNORED
from .conversations import Conversation, formatted, get_vl2_conv_template
from .outputs import BatchCollateOutput, VL2ChatProcessorOutput, padded
from .processor import AS_IN_THE_ORIGINAL, OriginalProcessor, check_one_of, warn_of_unread

logger = logging.get_logger(__name__)


class DeepseekVLV2Processor(OriginalProcessor):
    """DeepSeek-VL2's; see `OriginalProcessor`."""

    own_classes = (DeepseekVL2Processor,)

    def __init__(self, processor: Any, mask_prompt: bool = True) -> None:
        super().__init__(processor, mask_prompt)
        self.image_processor = processor.image_processor
        self.image_token_id: int = processor.image_token_id
        self.patch_size: int = processor.patch_size
        self.downsample_ratio: int = processor.downsample_ratio
        self.candidate_resolutions = processor.image_processor.candidate_resolutions
        self.image_size: int = processor.image_processor.size["height"]

    @property
    def bos_id(self) -> int:
        """Id in front of a prompt."""
        return int(self.tokenizer.bos_token_id)

    @property
    def eos_id(self) -> int:
        """Id after an answer."""
        return int(self.tokenizer.eos_token_id)

    def encode(self, text: str, bos: bool = True, eos: bool = False) -> list[int]:
        """Ids of a text, in which special tokens are special tokens."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return [*[self.bos_id] * bos, *ids, *[self.eos_id] * eos]

    def decode(self, ids: list[int], **kwargs: Any) -> str:
        """See the tokenizer's `decode`."""
        return str(self.tokenizer.decode(ids, **kwargs))

    def new_chat_template(self) -> Conversation:
        """An empty conversation."""
        return get_vl2_conv_template(self.sft_format)

    def format_messages(
        self, conversations: list[dict[str, str]], sft_format: str = "deepseek", system_prompt: str = ""
    ) -> str:
        """The prompt's text; see `conversations.formatted`."""
        return formatted(get_vl2_conv_template(sft_format), conversations, system_prompt)

    def format_prompts(self, prompts: str, sft_format: str = "deepseek", system_prompt: str = "") -> str:
        """The text of a prompt that is one question."""
        roles = get_vl2_conv_template(sft_format).roles
        turns = [{"role": roles[0], "content": prompts}, {"role": roles[1], "content": ""}]
        return self.format_messages(turns, sft_format, system_prompt)

    def process_one(
        self,
        prompt: str | None = None,
        conversations: Any = None,
        images: Any = None,
        apply_sft_format: bool = False,
        inference_mode: bool = True,
        system_prompt: str = "",
        **kwargs: Any,
    ) -> VL2ChatProcessorOutput:
        """Prepares one prompt; see `__call__`."""
        check_one_of(prompt, conversations)
        if conversations is not None:
            text = self.format_messages(conversations, self.sft_format, system_prompt)
            if system_prompt:
                logger.warning_once(
                    "Found a system_prompt beside conversations; as in the original it stands in sft_format alone, and "
                    "the model does not read it. Put a message of the role 'system' in front of the others."
                )
            inputs = self._of_conversation(conversations, self.counted(text, images))
        else:
            text = str(prompt)
            if apply_sft_format:
                text = self.format_prompts(text, self.sft_format, system_prompt)
            inputs = self.own(text=text, images=self.counted(text, images) or None, **AS_IN_THE_ORIGINAL)
        return self._prepared(text, inputs, inference_mode)

    def _of_conversation(self, conversations: Any, images: list[Any]) -> Any:
        """This package's inputs, each picture in the message that has its place."""
        rest = iter(images)
        messages = [
            {
                "role": message["role"],
                # Scripts put answers back as they were decoded, with the EOS that is written after them anyway.
                "content": str(message["content"]).strip().removesuffix(self.tokenizer.eos_token).strip(),
                "images": [next(rest) for _ in range(message["content"].count(self.image_token))],
            }
            for message in conversations
        ]
        return self.own.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs=AS_IN_THE_ORIGINAL,
        )

    def _prepared(self, text: str, inputs: Any, inference_mode: bool) -> VL2ChatProcessorOutput:
        """The original's fields: an EOS ends every prompt, or with `inference_mode` none."""
        ids = inputs["input_ids"][0]
        learned = inputs.get("assistant_masks")
        answers = torch.ones_like(ids) if learned is None else torch.as_tensor(learned)[0]
        finished = int(ids[-1]) == self.eos_id
        if inference_mode and finished:
            ids, answers = ids[:-1], answers[:-1]
        elif not inference_mode and not finished:
            ids, answers = torch.cat([ids, ids.new_tensor([self.eos_id])]), torch.cat([answers, answers.new_ones(1)])
        places = ids == self.image_token_id
        ignored = places | (self.mask_prompt & (answers == 0))
        ignored[0] = False  # the BOS, which the original keeps
        side = self.image_size
        return VL2ChatProcessorOutput(
            sft_format=text,
            input_ids=ids,
            target_ids=ids.masked_fill(ignored, IGNORED),
            images=inputs.get("pixel_values", torch.zeros(1, 3, side, side)),
            images_seq_mask=places,
            images_spatial_crop=inputs.get("tile_grids", torch.zeros(1, 2, dtype=torch.long)),
            num_image_tokens=self.own.num_tokens_of_images(inputs) if "tile_grids" in inputs else [],
        )

    def __call__(
        self,
        *,
        prompt: str | None = None,
        conversations: Any = None,
        images: Any = None,
        apply_sft_format: bool = False,
        force_batchify: bool = True,
        inference_mode: bool = True,
        system_prompt: str = "",
        **kwargs: Any,
    ) -> Any:
        """Prepares one prompt, as a batch of one unless `force_batchify` is false.

        Args:
            prompt: the prompt's text, which is taken at its word; or
            conversations: messages with `role` and `content`.
            images: the pictures, in the order of their places; more than two are not cut into tiles.
            apply_sft_format: whether `prompt` is a question alone, and the rest is to be written around it.
            force_batchify: whether to return a batch.
            inference_mode: whether the model is to go on; else an EOS ends the prompt.
            system_prompt: in front of `prompt`, where `apply_sft_format` is true.
            **kwargs: not read, as in the original; a warning names them.

        Raises:
            ValueError: both or none of prompt and conversations, or other numbers of pictures than of places.
        """
        warn_of_unread(kwargs)
        prepared = self.process_one(prompt, conversations, images, apply_sft_format, inference_mode, system_prompt)
        return self.batchify([prepared]) if force_batchify else prepared

    def batchify(self, sample_list: list[VL2ChatProcessorOutput], padding: str = "left") -> BatchCollateOutput:
        """Joins prompts to a batch, padded on either side; see `BatchCollateOutput`."""
        ids = [sample.input_ids for sample in sample_list]
        return BatchCollateOutput(
            sft_format=[sample.sft_format for sample in sample_list],
            input_ids=padded(ids, self.pad_id, padding),
            labels=padded([sample.target_ids for sample in sample_list], IGNORED, padding),
            images=padded([sample.images for sample in sample_list]),
            attention_mask=padded([torch.ones_like(each, dtype=torch.bool) for each in ids], False, padding),
            images_seq_mask=padded([sample.images_seq_mask for sample in sample_list], False, padding),
            images_spatial_crop=padded([sample.images_spatial_crop for sample in sample_list]),
            seq_lens=[len(sample) for sample in sample_list],
        )
