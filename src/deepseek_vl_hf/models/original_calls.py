"""The generation models with the methods of the original classes, as `AutoModelForCausalLM` gives them.

    AutoModelForCausalLM.from_pretrained(path)
      .prepare_inputs_embeds(**prompt)   ids and pixels -> [batch, sequence, hidden]
      .language_model.generate(inputs_embeds=...)

The originals' prompts hold their pictures row by row, padded; the towers read them all in one row.
"""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import logging

from ..hf.versions import CACHE, one_cache
from .deepseek_ocr.modeling_deepseek_ocr import DeepseekOCRForConditionalGeneration
from .deepseek_vl import modeling_deepseek_vl
from .deepseek_vl2 import modeling_deepseek_vl2
from .deepseek_vl2.tiling import num_tiles
from .deepseek_vl_hybrid import modeling_deepseek_vl_hybrid
from .fusion import insert_image_embeds
from .language_view import LanguageModel

logger = logging.get_logger(__name__)

# How the original's towers normalize pixels from 0 to 1: (mean, standard deviation) of SigLIP's and of SAM's.
LOW_RESOLUTION = ((0.5,) * 3, (0.5,) * 3)
HIGH_RESOLUTION = (tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD))


class OriginalCalls:
    """What the original classes have in common."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, from original and converted checkpoints.

        Raises:
            TypeError: the checkpoint is of another class.
        """
        if issubclass(cls, PreTrainedModel):
            return super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        model = AutoModelForCausalLM.from_pretrained(*args, **kwargs)
        if not isinstance(model, cls):
            raise TypeError(
                f"The checkpoint is a {type(model).__name__}, which {cls.__name__} does not read. Use "
                "AutoModelForCausalLM, which finds the class by itself."
            )
        return model

    @property
    def language_model(self) -> Any:
        """The language model with its head, as DeepSeek-VL calls it; or what was assigned in its place.

        What wraps it, such as adapters, works on the model's own layers.
        """
        view = vars(self).get("_view")
        if view is None or (isinstance(view, LanguageModel) and view.lm_head is not self.lm_head):  # type: ignore[attr-defined]
            view = vars(self)["_view"] = LanguageModel(self)  # no part of the model, whose parts it shows
        if isinstance(view, LanguageModel):
            view.training = view.model.training
        return view

    language = language_model  # as DeepSeek-VL2 calls it

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("language_model", "language"):
            vars(self)["_view"] = value
        else:
            super().__setattr__(name, value)

    def get_decoder(self) -> Any:
        """The language model without its head; transformers would take `language_model` for it."""
        return self.model.get_decoder()  # type: ignore[attr-defined]

    def cuda(self, device: Any = None) -> Any:
        """As in torch; the model stays where it is if there is no GPU, or if `device_map` has placed it."""
        placed = set(getattr(self, "hf_device_map", {}).values())
        if len(placed) > 1:
            logger.warning_once(f"Found .cuda() of a model that device_map has placed on {placed}; it stays there.")
            return self
        if not torch.cuda.is_available():
            logger.warning_once("Found .cuda(), but no GPU that torch can use; the model stays on the CPU.")
            return self
        return super().cuda(device)  # type: ignore[misc]


class MultiModalityCausalLM(OriginalCalls):
    """DeepSeek-VL and DeepSeek-VL-Hybrid as the original package has them."""

    @property
    def vision_model(self) -> nn.Module:
        """The tower; of the Hybrid a list of all that encodes pictures, to be frozen or moved."""
        model = self.model  # type: ignore[attr-defined]
        parts = [part for name, part in model.named_children() if name not in ("aligner", "language_model")]
        return parts[0] if len(parts) == 1 else nn.ModuleList(parts)

    @property
    def aligner(self) -> nn.Module:
        """From the towers' width to the language model's."""
        aligner: nn.Module = self.model.aligner  # type: ignore[attr-defined]
        return aligner

    def prepare_inputs_embeds(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        images_seq_mask: torch.Tensor,
        images_emb_mask: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Embeds prompts and their pictures.

        Args:
            input_ids: [batch, sequence]; what is negative counts as 0.
            pixel_values: [batch, pictures, 3, side, side] from 0 to 1. For the Hybrid in the high resolution, of which
                the low one is made.
            images_seq_mask: bool [batch, sequence], the places of pictures.
            images_emb_mask: bool [batch, pictures, tokens], which tokens of which pictures are wanted.
            **kwargs: the other fields of a prompt, which are not read.

        Returns:
            [batch, sequence, hidden].

        Raises:
            ValueError: other numbers of places than of tokens, or masks and pixels of different shapes.
        """
        if pixel_values.shape[:2] != images_emb_mask.shape[:2]:
            raise ValueError(
                f"pixel_values has the shape {list(pixel_values.shape)} and images_emb_mask "
                f"{list(images_emb_mask.shape)}; expected the same [batch, pictures]. Pass fields of one prompt."
            )
        embeds = self.get_input_embeddings()(input_ids.clamp(min=0))  # type: ignore[attr-defined]
        there = images_emb_mask.any(-1)
        if not bool(there.any()):
            return insert_image_embeds(embeds, embeds[:0], images_seq_mask)
        pixels = self._pixels_of_towers(pixel_values[there].float())
        features = self.get_image_features(**pixels, return_dict=True).pooler_output  # type: ignore[attr-defined]
        return insert_image_embeds(embeds, features[images_emb_mask[there]], images_seq_mask)

    def _pixels_of_towers(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """[pictures, 3, side, side] from 0 to 1 -> what the towers read."""
        config = self.config  # type: ignore[attr-defined]
        if not hasattr(config, "high_res_vision_config"):
            return {"pixel_values": _normalized(pixels, *LOW_RESOLUTION)}
        side = config.vision_config.image_size
        low = functional.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        return {
            "pixel_values": _normalized(low, *LOW_RESOLUTION),
            "high_res_pixel_values": _normalized(pixels, *HIGH_RESOLUTION),
        }


def _normalized(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


class DeepseekVLV2ForCausalLM(OriginalCalls):
    """DeepSeek-VL2 as the original package has it."""

    @property
    def vision(self) -> nn.Module:
        """The tower."""
        tower: nn.Module = self.model.vision_model  # type: ignore[attr-defined]
        return tower

    @property
    def projector(self) -> nn.Module:
        """From the tower's width to the language model's."""
        projector: nn.Module = self.model.projector  # type: ignore[attr-defined]
        return projector

    def prepare_inputs_embeds(
        self,
        input_ids: torch.Tensor,
        images: torch.Tensor | None = None,
        images_seq_mask: torch.Tensor | None = None,
        images_spatial_crop: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Embeds prompts and the tiles of their pictures.

        Args:
            input_ids: [batch, sequence].
            images: [batch, tiles, 3, side, side].
            images_seq_mask: bool [batch, sequence], the places of pictures.
            images_spatial_crop: [batch, pictures, 2], columns and rows of tiles; zeros where there is no picture.
            **kwargs: the other fields of a prompt, which are not read.

        Returns:
            [batch, sequence, hidden].

        Raises:
            ValueError: `images` without the other two; other numbers of places than of tokens, or of tiles.
        """
        embeds = self.get_input_embeddings()(input_ids.clamp(min=0))  # type: ignore[attr-defined]
        if images is None:
            return embeds
        if images_seq_mask is None or images_spatial_crop is None:
            raise ValueError("Found images without images_seq_mask or images_spatial_crop; pass all three.")
        grids = [row[(row > 0).all(-1)] for row in images_spatial_crop]
        if not any(map(len, grids)):
            return insert_image_embeds(embeds, embeds[:0], images_seq_mask)
        counts = [sum(num_tiles(*grid) for grid in row.tolist()) for row in grids]
        tiles = torch.cat([row[:count] for row, count in zip(images, counts, strict=True)])
        features = self.get_image_features(tiles, torch.cat(grids), return_dict=True)  # type: ignore[attr-defined]
        return insert_image_embeds(embeds, features.pooler_output, images_seq_mask)

    @torch.no_grad()
    def incremental_prefilling(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        images_seq_mask: torch.Tensor | None = None,
        images_spatial_crop: torch.Tensor | None = None,
        chunk_size: int = 1024,
    ) -> tuple[torch.Tensor, Any]:
        """Reads a prompt piece by piece, all but its last token, which takes less memory than all at once.

        Args:
            input_ids: [batch, sequence]; not read if there are `inputs_embeds`.
            attention_mask: [batch, sequence], 0 at padding.
            inputs_embeds: [batch, sequence, hidden], instead of ids and pictures.
            images: see `prepare_inputs_embeds`.
            images_seq_mask: see `prepare_inputs_embeds`.
            images_spatial_crop: see `prepare_inputs_embeds`.
            chunk_size: tokens of a piece.

        Returns:
            The embeddings of the whole prompt, and the cache, for `generate(..., past_key_values=cache)`. The
            original's cache was a list of tensors.

        Raises:
            ValueError: neither ids nor embeddings, or a `chunk_size` below 1.
        """
        if chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}; expected at least 1 token.")
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("Found neither input_ids nor inputs_embeds; pass one of them.")
            inputs_embeds = self.prepare_inputs_embeds(input_ids, images, images_seq_mask, images_spatial_crop)
        batch, length = inputs_embeds.shape[:2]
        mask = inputs_embeds.new_ones((batch, length), dtype=torch.long) if attention_mask is None else attention_mask
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        cache = None
        for start in range(0, length - 1, chunk_size):
            end = min(start + chunk_size, length - 1)
            cache = self.get_decoder()(
                inputs_embeds=inputs_embeds[:, start:end],
                attention_mask=mask[:, :end].long(),
                position_ids=positions[:, start:end],
                cache=cache,
                use_cache=True,
            ).cache
        return inputs_embeds, cache


class DeepseekVLForConditionalGeneration(
    MultiModalityCausalLM, modeling_deepseek_vl.DeepseekVLForConditionalGeneration
):
    """See the class of this name beside the model; with the original's methods."""


class DeepseekVLHybridForConditionalGeneration(
    MultiModalityCausalLM, modeling_deepseek_vl_hybrid.DeepseekVLHybridForConditionalGeneration
):
    """See the class of this name beside the model; with the original's methods."""


class DeepseekVL2ForConditionalGeneration(
    DeepseekVLV2ForCausalLM, modeling_deepseek_vl2.DeepseekVL2ForConditionalGeneration
):
    """See the class of this name beside the model; with the original's methods."""

    def forward(
        self,
        *args: Any,
        images: torch.Tensor | None = None,
        images_seq_mask: torch.Tensor | None = None,
        images_spatial_crop: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the family's; pictures may come as the original's processor gives them."""
        if images is not None and kwargs.get("inputs_embeds") is None:
            input_ids, *args = args or [kwargs.pop("input_ids")]  # type: ignore[assignment]
            kwargs["inputs_embeds"] = self.prepare_inputs_embeds(
                input_ids, images, images_seq_mask, images_spatial_crop
            )
        return super().forward(*args, **kwargs)

    # transformers looks for the names of the arguments that a model takes.
    forward.__signature__ = inspect.signature(  # type: ignore[attr-defined]
        modeling_deepseek_vl2.DeepseekVL2ForConditionalGeneration.forward
    )

    def generate(
        self,
        inputs: Any = None,
        *args: Any,
        images: torch.Tensor | None = None,
        images_seq_mask: torch.Tensor | None = None,
        images_spatial_crop: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the family's; pictures may come as the original's processor gives them.

        Raises:
            ValueError: the cache of `incremental_prefilling` was used before, so it holds an answer, too.
        """
        if images is not None and kwargs.get("inputs_embeds") is None:
            inputs, kwargs["input_ids"] = None, kwargs.get("input_ids", inputs)
            kwargs["inputs_embeds"] = self.prepare_inputs_embeds(
                kwargs["input_ids"], images, images_seq_mask, images_spatial_crop
            )
        embeds, cache = kwargs.get("inputs_embeds"), one_cache(kwargs).get(CACHE)
        past = 0 if cache is None else cache.get_seq_length()
        if embeds is not None and past >= embeds.shape[1]:
            raise ValueError(
                f"The cache holds {past} tokens, the prompt {embeds.shape[1]}: an answer was generated "
                "with it before. Pass copy.deepcopy(cache) each time."
            )
        return super().generate(inputs, *args, **kwargs)


# They bear the families' names, which go into the files of saved models. DeepSeek-OCR's original class has `infer`
# alone, which `deepseek-vl ocr` does better.
CAUSAL_MODELS: dict[type[PreTrainedConfig], type[PreTrainedModel]] = {
    each.config_class: each
    for each in (
        DeepseekVLForConditionalGeneration,
        DeepseekVLHybridForConditionalGeneration,
        DeepseekVL2ForConditionalGeneration,
        DeepseekOCRForConditionalGeneration,
    )
}
