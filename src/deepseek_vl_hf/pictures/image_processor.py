"""What the families' image processors do alike: opening pictures, handing them on in 8 bits, scaling many at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.processing_utils import ImagesKwargs

from ..hf.processors import HfImageProcessor
from .colors import checked_transparency, rescale_factors
from .opening import flatten_pictures, open_image, to_rgb
from .pixels import scale_pixels, scaling_tables
from .settings import check_arguments, check_image_settings

Item = TypeVar("Item")
Result = TypeVar("Result")
Pictures = np.ndarray | list[np.ndarray]  # of one size, or each of its own


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Calls a function for each item on as many threads as torch may use; Pillow and numpy work side by side.

    torch's number is 1 in the workers of a data loader, which are many already.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def threads_per_picture(pictures: int) -> int:
    """Threads that are left for each of the pictures that `in_parallel` prepares."""
    return max(1, torch.get_num_threads() // max(1, pictures))


def scale_pictures(pictures: Sequence[np.ndarray], tables: Sequence[np.ndarray]) -> Pictures:
    """Looks the pixels of many pictures up, each in a `scaling_table`.

    Args:
        pictures: each uint8 [height, width, channels].
        tables: one for each picture, float32 [channels or 1, 256].

    Returns:
        float32 [pictures, channels, height, width]; a list of [channels, height, width] where sizes differ.
    """
    shapes = [(picture.shape[2], *picture.shape[:2]) for picture in pictures]
    scaled: Any = [np.empty(shape, np.float32) for shape in shapes]
    if len({*shapes}) == 1:
        scaled = np.empty((len(pictures), *shapes[0]), np.float32)
    in_parallel(lambda number: scale_pixels(pictures[number], tables[number], scaled[number]), range(len(pictures)))
    return scaled


def tables_of_images(
    images: list[Image.Image],
    *,
    do_rescale: bool,
    rescale_factor: float,
    do_normalize: bool,
    image_mean: tuple[float, ...],
    image_std: tuple[float, ...],
    **kwargs: Any,
) -> list[np.ndarray]:
    """The `scaling_table` of each picture, by an image processor's settings; others than those named are not read."""
    statistics = (image_mean, image_std) if do_normalize else (None, None)
    return scaling_tables(rescale_factors(images, do_rescale, rescale_factor), *statistics)


def batch_of(data: dict[str, Any], return_tensors: str | None) -> BatchFeature:
    """A batch in the type that was asked for; without one, a list with an entry per picture, as everywhere."""
    if return_tensors is None:
        data = {name: list(values) for name, values in data.items()}
    return BatchFeature(data=data, tensor_type=return_tensors)


class PictureKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Arguments of all families' image processors, beyond those that every image processor takes.

    Attributes:
        transparency: "white" or "drop"; see `to_rgb`.
    """

    transparency: str


class PillowImageProcessor(HfImageProcessor):
    """An image processor whose pictures stay 8-bit Pillow images until they have their size.

    A family gives the defaults of its settings as class attributes, and `to_pixels`.

    Raises:
        ValueError: a setting is of another kind than its name needs, here or in a call.
    """

    valid_kwargs = PictureKwargs
    transparency = "white"

    def __init__(self, **kwargs: Any) -> None:
        check_image_settings(kwargs, type(self).__name__)
        super().__init__(**kwargs)

    @property
    def backend(self) -> str:
        """Pillow resizes; transformers asks for this name."""
        return "pil"

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """See transformers; pictures in any nesting and form -> the tensors that the model reads.

        Raises:
            TypeError: an argument that this image processor does not have.
            ValueError: a setting is of another kind than its name needs, or a picture cannot be read.
        """
        check_arguments(kwargs, {*self.valid_kwargs.__annotations__, "image_like_kwargs"})
        return super().preprocess(images, *args, **kwargs)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Opens paths, URLs, `data:` URIs, bytes and files in any nesting; pictures pass through."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(source) for source in image_url_or_urls]
        return open_image(image_url_or_urls)

    def as_pictures(self, images: Any) -> list[Any]:
        """Pictures in any nesting and form, one after the other."""
        return self.fetch_images(flatten_pictures(images))

    def process_image(
        self, image: Any, input_data_format: Any = None, transparency: str | None = None, **kwargs: Any
    ) -> Image.Image:
        """One picture in any form -> 8-bit RGB; called by transformers for each picture."""
        return to_rgb(image, input_data_format, transparency or self.transparency)

    def complete_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """See `HfImageProcessor.complete_settings`."""
        checked_transparency(settings["transparency"])
        check_image_settings(settings, type(self).__name__)
        return settings
