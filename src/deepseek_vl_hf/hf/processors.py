"""Base classes of processors and image processors: transformers' hooks under public names."""

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import MultiModalData

from .originals import OpensOriginals


class HfProcessor(OpensOriginals, ProcessorMixin):
    """A `ProcessorMixin` that sorts its arguments, and answers serving engines."""

    def sorted_arguments(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of a call, completed by the defaults: those for the text, and those for the images."""
        defaults = tokenizer_settings(self.tokenizer)
        merged = self._merge_kwargs(self.valid_processor_kwargs, tokenizer_init_kwargs=defaults, **arguments)
        return merged["text_kwargs"], merged["images_kwargs"]

    def unknown_arguments(self, arguments: dict[str, Any]) -> list[str]:
        """Those of a call's arguments, also inside of `text_kwargs` and its like, that transformers would leave out."""
        of_processor = _fields(self.valid_processor_kwargs)
        groups = {
            "text_kwargs": {*_fields(of_processor["text_kwargs"])},
            "images_kwargs": {
                *_fields(of_processor["images_kwargs"]),
                *_fields(getattr(self.image_processor, "valid_kwargs", None)),
            },
        }
        groups["common_kwargs"] = groups["text_kwargs"] | groups["images_kwargs"]
        alone = {name for name in of_processor if not name.endswith("_kwargs")}
        known = groups["common_kwargs"] | alone | groups.keys()
        unknown = [name for name, value in arguments.items() if name not in known and not _is_empty_group(name, value)]
        for group, names in groups.items():
            unknown += [f"{group}[{name!r}]" for name in arguments.get(group) or () if name not in names | alone]
        return unknown

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """What vLLM asks before it makes room for images: tokens and patches of each (height, width) in pixels."""
        if image_sizes is None:
            return MultiModalData()
        tokens, patches = self.num_tokens_of_sizes(image_sizes, **kwargs)
        return MultiModalData(num_image_tokens=tokens, num_image_patches=patches)


def _fields(typed_dict: Any) -> dict[str, Any]:
    return dict(getattr(typed_dict, "__annotations__", {}))


def _is_empty_group(name: str, value: Any) -> bool:
    """Whether an argument is a group of another modality's arguments with nothing in it."""
    return name in ("videos_kwargs", "audio_kwargs") and not value


def tokenizer_settings(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer's files and whoever made it said; the attributes do not tell that from general defaults."""
    return dict(tokenizer.init_kwargs)


class HfImageProcessor(OpensOriginals, BaseImageProcessor):
    """A `BaseImageProcessor` whose steps have public names.

    A subclass gives the defaults of its settings as class attributes and overrides `as_pictures`, `process_image`,
    `complete_settings` and `to_pixels`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)

    def as_pictures(self, images: Any) -> list[Any]:
        """Pictures in any nesting and form, one after the other; each goes through `process_image` next."""
        return super()._prepare_images_structure(images)

    def complete_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings of a call, in the types that `to_pixels` expects."""
        return settings

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        return self.as_pictures(images)

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        return self.complete_settings(super()._standardize_kwargs(**kwargs))

    def _preprocess(self, images: list[Any], *args: Any, **kwargs: Any) -> BatchFeature:
        return self.to_pixels(images, *args, **kwargs)
