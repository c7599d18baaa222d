"""Generation: a look at the inputs before it starts, and images that follow their prompts."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessorList, ProcessorMixin
from transformers.utils import logging

from ..hf.attention import SDPA_BY_DEVICE, attention_of
from ..hf.cache import growing_cache
from ..hf.generation import HfGenerationMixin
from ..hf.outputs import with_both_names
from ..hf.versions import CACHE, CHUNKED_PREFILL_READS_IMAGES, INSTALLED, one_cache
from .checks import IMAGES_LEFT_OUT, PLACEHOLDERS_ALONE, check_none_missing, hold_an_image
from .fusion import image_token_mask, repeat_images_of_prompts
from .logits import FirstLogits
from .repetition import NgramBan
from .sampling import check_sampling

logger = logging.get_logger(__name__)

CONTINUOUS_BATCHING_IS_FOR_TEXT = (
    'Continuous batching (generate_batch, cache_implementation="paged") reads token ids only and would leave the '
    "images out. Use generate with another cache for prompts with images."
)


class MultimodalGenerationMixin(HfGenerationMixin):
    """transformers' `generate`, kept from leaving images out in silence.

    The library takes the image inputs aside and encodes them once. Incomplete ones it drops without a word, and the
    image places then keep the embedding of their own token; before 5.23 it also hands the images of a prompt with
    several of them to its beams in a wrong order.
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    output_modalities = ("text",)
    # Image inputs that some pictures have not.
    optional_image_inputs: tuple[str, ...] = ()

    def name_special_ids(self) -> None:
        """Fills in the special ids that no generation_config.json names: those of the text model.

        Original checkpoints have no such file, and without an EOS no answer would end.
        """
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self.generation_config, name) is None:
                setattr(self.generation_config, name, getattr(self.config.text_config, name))

    def generate(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """See transformers' `GenerationMixin.generate`.

        The cache may come as `cache` or as `past_key_values`, and a processor as `tokenizer`.

        Raises:
            ValueError: the prompt has image places, but its image inputs are missing or incomplete; the images would
                be left out by the way to generate that was asked for; a number that steers sampling is out of range;
                or the logits of the prompt hold NaN or infinity.
        """
        kwargs = one_cache(kwargs)
        for name in ("tokenizer", "assistant_tokenizer"):  # texts to stop at are looked up in a tokenizer's own call
            if isinstance(kwargs.get(name), ProcessorMixin):
                kwargs[name] = kwargs[name].tokenizer
        input_ids = kwargs.get("input_ids") if inputs is None else inputs
        asked = partial(self._asked, args, kwargs)
        images = self.check_image_inputs(input_ids, kwargs)
        if images:
            self._check_ways_that_drop_images(asked)
        self._warn_of_long_prompts(input_ids)
        check_sampling(asked)
        if asked("prompt_lookup_num_tokens") or kwargs.get("assistant_model") is not None:
            # Candidates are proposed in bulk and may hold image tokens (copied from the prompt, or an assistant's
            # whim), which the first verification would count as image places.
            kwargs["suppress_tokens"] = [*(asked("suppress_tokens") or ()), self.config.image_token_id]
        if (encoded := kwargs.get("mm_encoder_outputs")) is not None:  # transformers writes into it what it encodes
            copies = {name: type(output)(**output) for name, output in encoded.items() if output is not None}
            kwargs["mm_encoder_outputs"] = copies
        if CACHE not in kwargs and self._makes_plain_cache(asked):
            kwargs[CACHE] = growing_cache(self.config.get_text_config(decoder=True))
        first = FirstLogits(
            self,
            draws=bool(asked("do_sample")),
            every_step=kwargs.get("assistant_model") is not None,
            infinity_is_asked_for=asked("sequence_bias") is not None,
        )
        given = [first, *(kwargs.get("logits_processor") or ())]
        if size := asked("no_repeat_ngram_size"):  # the same rule as transformers', for batches without a loop
            given.append(NgramBan(size))
            kwargs["no_repeat_ngram_size"] = 0
        kwargs["logits_processor"] = LogitsProcessorList(given)
        generated = super().generate(inputs, *args, **kwargs)
        first.check()
        return with_both_names(generated)

    def _makes_plain_cache(self, asked: Callable[[str], Any]) -> bool:
        """Whether transformers would make a plain cache, in the place of which one that grows in place can stand."""
        special = asked("cache_implementation") or asked("custom_generate") or asked("is_assistant")
        return not special and asked("use_cache") is not False

    def generate_batch(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """See transformers' `generate_batch` (continuous batching), which is for text alone.

        Raises:
            ValueError: a prompt has image places; their images would be left out.
        """
        for prompt in inputs:
            if hold_an_image(self.config, torch.as_tensor(prompt) == self.config.image_token_id):
                raise ValueError(CONTINUOUS_BATCHING_IS_FOR_TEXT)
        before = attention_of(self.config.text_config)
        try:
            return super().generate_batch(inputs, *args, **kwargs)
        finally:
            if attention_of(self.config.text_config) != before:
                self.set_attn_implementation({"text_config": before})

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """See transformers' `init_continuous_batching`.

        It makes masks for `sdpa` by its name, so the language model is put on that; `generate_batch` takes it back.
        """
        if attention_of(self.config.text_config) == SDPA_BY_DEVICE:
            self.set_attn_implementation({"text_config": "sdpa"})
        return super().init_continuous_batching(*args, **kwargs)

    def _asked(self, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        """What a generation argument is, from the call, the config handed in, or the model's config, in this order."""
        configs = [kwargs.get("generation_config"), *args[:1], self.generation_config]
        values = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
        return next((value for value in values if value is not None), None)

    def check_image_inputs(self, input_ids: Any, kwargs: dict[str, Any]) -> bool:
        """Whether there are images.

        Args:
            input_ids: [batch, sequence], or None.
            kwargs: all other arguments of `generate`, the cache under transformers' name.

        Raises:
            ValueError: image inputs are incomplete, or missing for a prompt's places.
        """
        without = {"kwargs", *self.optional_image_inputs}
        names = [name for name in inspect.signature(self.get_image_features).parameters if name not in without]
        given = {name: kwargs.get(name) for name in names}
        check_none_missing(given)
        if any(value is not None for value in given.values()) or (kwargs.get("mm_encoder_outputs") or {}).get("image"):
            return True
        cache = kwargs.get(CACHE)
        embeds = kwargs.get("inputs_embeds")
        if (cache is not None and int(cache.get_seq_length())) or (input_ids is None and embeds is None):
            return False
        places = self._places(input_ids, embeds)
        if hold_an_image(self.config, places):
            raise ValueError(IMAGES_LEFT_OUT)
        if bool(places.any()):
            logger.warning_once(PLACEHOLDERS_ALONE)
        return False

    def _places(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Bool [batch, sequence]: where image places are that nothing has filled.

        Embeddings say it where they come beside ids: those of the first step are read from them alone.
        """
        given = input_ids if inputs_embeds is None else None
        return image_token_mask(given, inputs_embeds, self.get_input_embeddings(), self.config.image_token_id)

    def _check_ways_that_drop_images(self, asked: Callable[[str], Any]) -> None:
        if asked("cache_implementation") == "paged":
            raise ValueError(CONTINUOUS_BATCHING_IS_FOR_TEXT)
        if asked("prefill_chunk_size") and not CHUNKED_PREFILL_READS_IMAGES:
            raise ValueError(
                f"prefill_chunk_size was given, but transformers {INSTALLED} leaves the images out when "
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

    def repeat_images(self, images: Any, times: int, input_ids: Any, inputs_embeds: Any) -> Any:
        """What `get_image_features` gave, with the images of each prompt `times` over; see `HfGenerationMixin`."""
        places = self._places(input_ids, inputs_embeds)
        repeated = repeat_images_of_prompts(images.pooler_output, places.sum(-1).tolist(), times)
        return type(images)(**{**images, "pooler_output": repeated})
