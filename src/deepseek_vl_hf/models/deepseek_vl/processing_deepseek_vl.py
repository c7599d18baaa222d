"""Processor of DeepSeek-VL: conversations or prompts and pictures -> model inputs.

messages --normalize, chat template--> prompt --expand image places, cut, encode--> input_ids [batch, sequence]
pictures --image processor--> pixel_values [images, 3, 384, 384]
"""

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import MultiModalData

from ... import chat_templates
from ...processing import (
    apply_chat_template,
    image_token_of,
    prepare_inputs,
    same_number_of_tokens,
)


class DeepseekVLProcessor(ProcessorMixin):
    """Image processor, tokenizer and chat template of DeepSeek-VL in one.

    Every route gives the ids of the original's `VLChatProcessor`: one BOS in front, an image as `num_image_tokens`
    copies of the image token, padding on the left.

    Args:
        image_processor: a `DeepseekVLImageProcessor`.
        tokenizer: the byte-level BPE tokenizer.
        chat_template: Jinja text; by default the original's format.
        num_image_tokens: places that one image takes.

    Raises:
        ValueError: the tokenizer lacks the image token.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        num_image_tokens: int = 576,
    ) -> None:
        self.image_token = image_token_of(tokenizer)
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.num_image_tokens = num_image_tokens
        super().__init__(image_processor, tokenizer, chat_template=chat_template or chat_templates.DEEPSEEK_VL)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares finished prompts and their pictures.

        A prompt is taken at its word: each `<image_placeholder>` in it is an image place, and special tokens are
        special tokens. For text that people typed use `apply_chat_template`, which keeps the two apart.

        Args:
            images: one picture (Pillow image, array, tensor, path, URL or `data:` URI), a list of pictures for all
                prompts together, or one list per prompt.
            text: one prompt or several.
            **kwargs: arguments of tokenizer and image processor, such as `padding=True`; `return_tensors` defaults to
                "pt".

        Returns:
            `input_ids` and `attention_mask` [batch, sequence], `pixel_values` [images, 3, side, side].

        Raises:
            ValueError: images and image places differ in number, a picture cannot be read, or truncation would cut
                through an image.
        """
        return prepare_inputs(self, images, text, kwargs)

    def apply_chat_template(
        self, conversation: Any, chat_template: str | None = None, *, tokenize: bool = False, **kwargs: Any
    ) -> Any:
        """Renders one conversation or a batch of them, and with `tokenize=True` prepares the model's inputs.

        Typed text stays text: an `<image_placeholder>`, a BOS or an EOS inside a message is encoded as the characters
        that it is. (With `tokenize=False` the result is a plain string, in which the difference is lost.)

        Args:
            conversation: messages in transformers' shape (`role`, `content` as string or parts), with OpenAI's
                `image_url` parts, or in the original's shape (`<image_placeholder>` in the content, `images` beside
                it); or a list of such conversations.
            chat_template: another template than the processor's.
            tokenize: whether to encode the prompt and load the pictures.
            **kwargs: as in transformers: `add_generation_prompt`, `continue_final_message`, `return_dict`,
                `return_tensors`, `return_assistant_tokens_mask`, `processor_kwargs`.

        Returns:
            The prompt(s); with `tokenize=True` the ids, or with `return_dict=True` all model inputs.

        Raises:
            ValueError, TypeError: a message that is not understood; the error names conversation and message.
        """
        kwargs["chat_template"] = chat_template
        return apply_chat_template(self, super().apply_chat_template, conversation, tokenize, kwargs)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """What one image place of a prompt becomes; serving engines call this."""
        return self.image_token * self.num_image_tokens

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Tokens and patches per image for serving engines."""
        return same_number_of_tokens(image_sizes, self.num_image_tokens)
