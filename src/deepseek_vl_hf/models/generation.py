"""Generation, with a look at the inputs before it starts."""

from typing import Any

from transformers import GenerationMixin

from .checks import check_images_given


class MultimodalGenerationMixin(GenerationMixin):
    """transformers' `generate`, which must not run on a prompt whose images were left out.

    It would: the image inputs of `generate` are taken aside and encoded, incomplete ones are dropped without a word,
    and the image places then keep the embedding of their own token.
    """

    def generate(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """See transformers' `GenerationMixin.generate`.

        Raises:
            ValueError: the prompt has image places, but no image inputs came with it.
        """
        input_ids = kwargs.get("input_ids") if inputs is None else inputs
        images = kwargs.get("pixel_values")
        if images is None:
            images = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        check_images_given(self.config, input_ids, images, kwargs.get("past_key_values"))
        return super().generate(inputs, *args, **kwargs)
