"""What the families' image processors do alike: opening pictures and handing them on as 8-bit RGB."""

from typing import Any

from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

from .images import flatten_pictures, open_image, to_rgb


class PillowImageProcessor(BaseImageProcessor):
    """An image processor whose pictures stay 8-bit Pillow images until they have their size.

    A family gives the defaults of its settings as class attributes, and `_preprocess`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)

    @property
    def backend(self) -> str:
        """Pillow resizes; transformers asks for this name."""
        return "pil"

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Opens paths, URLs and `data:` URIs in any nesting; pictures pass through."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(source) for source in image_url_or_urls]
        return open_image(image_url_or_urls)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        return flatten_pictures(self.fetch_images(images))

    def process_image(self, image: Any, input_data_format: Any = None, **kwargs: Any) -> Image.Image:
        """One picture in any form -> 8-bit RGB; called by transformers for each picture."""
        return to_rgb(image, input_data_format)
