"""Generation: a look at the inputs before it starts, and images that follow their prompts."""

from typing import Any

import torch
import transformers
from transformers import GenerationMixin
from transformers.utils import logging

from ..compat import CHUNKED_PREFILL_READS_IMAGES
from ..fusion import image_token_mask, repeat_images_of_prompts
from .checks import IMAGES_LEFT_OUT, images_were_left_out

logger = logging.get_logger(__name__)


class MultimodalGenerationMixin(GenerationMixin):
    """transformers' `generate`, kept from giving wrong answers in silence.

    The library takes the image inputs aside and encodes them once. Incomplete ones it drops without a word, and the
    image places then keep the embedding of their own token; before 5.23 it also hands the images of a prompt with
    several of them to its beams in a wrong order.
    """

    def generate(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """See transformers' `GenerationMixin.generate`.

        Raises:
            ValueError: the prompt has image places, but no image inputs came with it; or the images would be left out
                by the way to generate that was asked for.
        """
        input_ids = kwargs.get("input_ids") if inputs is None else inputs
        images = kwargs.get("pixel_values")
        if images is None:
            images = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if images_were_left_out(self.config, input_ids, images, kwargs.get("past_key_values")):
            raise ValueError(IMAGES_LEFT_OUT)
        self._check_ways_that_drop_images(images, args, kwargs)
        self._warn_of_long_prompts(input_ids)
        if kwargs.get("prompt_lookup_num_tokens") or kwargs.get("assistant_model") is not None:
            # Candidates are proposed in bulk and may hold image tokens (copied from the prompt, or an assistant's
            # whim), which the first verification would count as image places.
            kwargs["suppress_tokens"] = [*(kwargs.get("suppress_tokens") or ()), self.config.image_token_id]
        return super().generate(inputs, *args, **kwargs)

    def _check_ways_that_drop_images(self, images: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        configs = [kwargs.get("generation_config"), *args[:1], self.generation_config]

        def asked(name: str) -> set[Any]:
            return {kwargs.get(name), *(getattr(config, name, None) for config in configs)} - {None}

        if images is None:
            return
        if "paged" in asked("cache_implementation"):
            raise ValueError(
                'cache_implementation="paged" (continuous batching) reads token ids only and would leave the images '
                "out. Use another cache for prompts with images."
            )
        if asked("prefill_chunk_size") and not CHUNKED_PREFILL_READS_IMAGES:
            raise ValueError(
                f"prefill_chunk_size was given, but transformers {transformers.__version__} leaves the images out when "
                "it prefills in chunks. Install transformers 5.23 or newer, or leave prefill_chunk_size out."
            )

    def _warn_of_long_prompts(self, input_ids: Any) -> None:
        limit = self.config.text_config.max_position_embeddings
        if isinstance(input_ids, torch.Tensor) and input_ids.shape[-1] > limit:
            logger.warning_once(
                f"A prompt of {input_ids.shape[-1]} tokens is longer than the {limit} positions "
                "(max_position_embeddings) that the model was trained for; what lies beyond them is read badly. Send "
                "fewer images or less text."
            )

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        encoded = model_kwargs.pop("mm_encoder_outputs", None)
        images = (encoded or {}).get("image")
        if images is not None and expand_size > 1:
            inputs_embeds = model_kwargs.get("inputs_embeds")
            given = input_ids if input_ids is not None and input_ids.numel() else None
            places = image_token_mask(given, inputs_embeds, self.get_input_embeddings(), self.config.image_token_id)
            repeated = repeat_images_of_prompts(images.pooler_output, places.sum(-1).tolist(), expand_size)
            encoded = {**encoded, "image": type(images)(**{**images, "pooler_output": repeated})}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs if encoded is None else {**model_kwargs, "mm_encoder_outputs": encoded}
