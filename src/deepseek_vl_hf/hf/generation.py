"""transformers' `generate`, where an override of something private cannot be avoided."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationMixin

from .versions import BEAMS_MIX_IMAGES


class HfGenerationMixin(GenerationMixin):
    """A `GenerationMixin` that gives each beam the images of its own prompt, which transformers does from 5.23 on."""

    # [what get_image_features gave, beams per prompt, input_ids, inputs_embeds] -> the same, each prompt's images
    # as many times as it has beams. The subclass knows where the images of a prompt are.
    repeat_images: Callable[[Any, int, Any, Any], Any]

    if BEAMS_MIX_IMAGES:

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
                repeated = self.repeat_images(images, expand_size, input_ids, model_kwargs.get("inputs_embeds"))
                encoded = {**encoded, "image": repeated}
            input_ids, model_kwargs = super()._expand_inputs_for_generation(
                expand_size, is_encoder_decoder, input_ids, **model_kwargs
            )
            return input_ids, model_kwargs if encoded is None else {**model_kwargs, "mm_encoder_outputs": encoded}
