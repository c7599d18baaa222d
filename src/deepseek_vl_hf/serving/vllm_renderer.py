"""From a client's messages to ids by our processor, in vLLM; only vLLM's plugin imports this.

vLLM renders the chat template to text and encodes that, so what people type as `<image_placeholder>` would become a
picture's place, and a typed EOS would end a turn. Our processor cuts a prompt at the control tokens that the template
wrote. It is called here with the pictures' places as single tokens, which vLLM then replaces by as many as each needs.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from vllm.renderers.hf import HfRenderer
from vllm.transformers_utils.processor import cached_processor_from_config

from ..conversation.processor import ChatProcessor


class FamilyRenderer(HfRenderer):
    """vLLM's renderer of Jinja templates, whose tokenizer asks our processor for a conversation's ids."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        if self.tokenizer is not None:
            processor = cached_processor_from_config(config.model_config)
            self.tokenizer.apply_chat_template = partial(_ids, processor)

    def render_messages(self, messages: Any, params: Any) -> Any:
        """See vLLM's `HfRenderer.render_messages`."""
        return super().render_messages(messages, _with_parts(params))

    async def render_messages_async(self, messages: Any, params: Any) -> Any:
        """See vLLM's `HfRenderer.render_messages_async`."""
        return await super().render_messages_async(messages, _with_parts(params))


def _with_parts(params: Any) -> Any:
    """The same settings, with pictures as parts of a message and in their own colors.

    As text, places could not be told from typed text. How colors become RGB is up to `vllm_models`.
    """
    of_pictures = (params.media_io_kwargs or {}).get("image", {})
    media = {**(params.media_io_kwargs or {}), "image": {"image_mode": None, **of_pictures}}
    return replace(params, chat_template_content_format="openai", media_io_kwargs=media)


def _ids(processor: ChatProcessor, conversation: Any, **kwargs: Any) -> list[int]:
    """What vLLM calls as the tokenizer's `apply_chat_template`; it takes ids as well as text."""
    arguments = {name: value for name, value in kwargs.items() if name not in ("tokenize", "return_dict")}
    return processor.encode_conversation(conversation, None, **arguments)
