"""The families in vLLM's Transformers backend; only vLLM's plugin imports this.

What is added are processors. Pictures become 8-bit RGB by our rules: vLLM's own make what has 16 bits white.

A picture of DeepSeek-VL2 has as many rows of pixels as its grid asks for, and `tile_grids` has one row per picture.
vLLM keeps processed pictures in a cache, one by one, and hands on those that a batch of requests brings together. So it
has to know how rows are told apart, and a picture must not look different because of its neighbors.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from vllm.model_executor.models import transformers as backend
from vllm.model_executor.models.transformers.multimodal import (
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig

from ..models.deepseek_vl2.tiling import MOST_TILED_IMAGES, num_tiles
from ..pictures.opening import to_rgb


class OwnColors(MultiModalProcessingInfo):
    """What the backend knows of a model's inputs, with pictures in our colors."""

    def parse_mm_data(self, mm_data: Mapping[str, Any], *, validate: bool = True) -> Any:
        """See vLLM's `BaseProcessingInfo.parse_mm_data`, which would convert pictures that are not RGB yet."""
        given = mm_data.get("image")
        if isinstance(given, Image.Image):
            mm_data = {**mm_data, "image": to_rgb(given)}
        elif isinstance(given, (list, tuple)):
            mm_data = {**mm_data, "image": [to_rgb(e) if isinstance(e, Image.Image) else e for e in given]}
        return super().parse_mm_data(mm_data, validate=validate)


class TiledPictures(MultiModalProcessor):
    """The backend's processor, which knows what belongs to which picture."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """See vLLM's `BaseMultiModalProcessor.apply`; here "auto" becomes True or False for the whole request.

        The setting is part of a picture's name in the cache. So a picture that was cut for a request of its own is
        processed again for one with more pictures than are cut by the published models' rule.

        Raises:
            ValueError: a setting for each picture; cached pictures are not there to be counted.
        """
        given = self.info.ctx.get_merged_mm_kwargs(inputs.hf_processor_mm_kwargs)
        tiling = given.get("tiling", (given.get("images_kwargs") or {}).get("tiling"))
        tiling = self.info.get_hf_processor().tiling if tiling is None else tiling
        if isinstance(tiling, (list, tuple)):
            raise ValueError(f"tiling is {tiling!r}; expected 'auto', True or False for all pictures of a request.")
        if tiling == "auto":
            count = inputs.mm_data_items.get_all_counts().get("image", 0)
            settings = {**inputs.hf_processor_mm_kwargs, "tiling": count <= MOST_TILED_IMAGES}
            inputs = replace(inputs, hf_processor_mm_kwargs=settings)
        return super().apply(inputs, timing_ctx)

    def _get_num_image_patches(self, hf_inputs: Any, mm_data: Mapping[str, object], num_images: int) -> torch.Tensor:
        """Rows of pixels of each picture."""
        return torch.tensor([num_tiles(*grid) for grid in hf_inputs["tile_grids"].tolist()])

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        """How rows are told apart: by the number of tiles, but for the grids, of which each picture has one."""
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        if "tile_grids" in fields:
            fields["tile_grids"] = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return fields


# By the names of these classes vLLM tells that its Transformers backend runs, and from that whether latents are cached.
@MULTIMODAL_REGISTRY.register_processor(MultiModalProcessor, info=OwnColors, dummy_inputs=MultiModalDummyInputsBuilder)
class TransformersMultiModalForCausalLM(backend.TransformersMultiModalForCausalLM):
    """The backend's model with pictures."""


@MULTIMODAL_REGISTRY.register_processor(TiledPictures, info=OwnColors, dummy_inputs=MultiModalDummyInputsBuilder)
class TransformersMultiModalMoEForCausalLM(backend.TransformersMultiModalMoEForCausalLM):
    """The backend's model with pictures and experts."""
