"""The small files of an original checkpoint as config, tokenizer, image processor and processor, and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from . import deepseek_ocr, deepseek_vl, deepseek_vl2, deepseek_vl_hybrid
from .config_fields import MODEL_TYPE, RecordedDict, naming_bad_values, section
from .files import CONFIG, IMAGES, PROCESSOR, TOKENIZER, FileFinder, optional_json, read_json, require
from .formats import OriginalFormat
from .processors import load_original_tokenizer, special_token_ids
from .small_files import check_tokenizer_config

FORMATS: tuple[OriginalFormat, ...] = (
    deepseek_vl.FORMAT,
    deepseek_vl_hybrid.FORMAT,
    deepseek_ocr.FORMAT,  # before DeepSeek-VL2, whose model type it has
    deepseek_vl2.FORMAT,
)
MODEL_TYPES = tuple(dict.fromkeys([*(layout.model_type for layout in FORMATS), *deepseek_ocr.RESAVED_MODEL_TYPES]))
LLAMA_MAX_POSITIONS = LlamaConfig().max_position_embeddings  # what a file without the number means; DeepseekV2's too

# In the names of sections of Janus, which came after DeepSeek-VL, draws pictures too, and has the same model type.
DRAWING_SECTION = "gen_"


def is_janus(config: dict[str, Any]) -> bool:
    """Whether a config.json is of Janus."""
    return config.get("model_type") == MODEL_TYPE and any(DRAWING_SECTION in key for key in config)


def is_another_model(config: dict[str, Any]) -> bool:
    """Whether a config.json has DeepSeek-VL2's model type, but is of a model such as DeepSeek-OCR-2.

    It says so by its architecture, or by a vision tower that is not DeepSeek-VL2's together with code of its own.
    """
    if config.get("model_type") != deepseek_vl2.MODEL_TYPE or deepseek_ocr.is_deepseek_ocr(config):
        return False
    vision = config.get("vision_config")
    tower = vision.get("model_name") if isinstance(vision, dict) else None
    others = [name for name in config.get("architectures") or () if not name.startswith(deepseek_vl2.ARCHITECTURE)]
    return bool(others) or (tower != deepseek_vl2.TOWER and "auto_map" in config)


def find_format(config: dict[str, Any]) -> OriginalFormat:
    """The layout that a config.json describes.

    Raises:
        ValueError: none of those that are known, such as Janus, whose files carry the same model type.
    """
    if is_janus(config):
        generation = ", ".join(sorted(key for key in config if DRAWING_SECTION in key))
        raise ValueError(
            f"config.json is of Janus: it has the sections {generation}, which describe image generation. "
            f"Janus has the model_type {MODEL_TYPE!r} too, but is another model; expected DeepSeek-VL. transformers' "
            "own Janus classes read the deepseek-community Janus repositories."
        )
    if is_another_model(config):
        named = ", ".join(config.get("architectures") or ["another model"])
        raise ValueError(
            f"config.json is of {named}, which has the model_type {deepseek_vl2.MODEL_TYPE!r} too. Expected "
            "DeepSeek-VL2 or DeepSeek-OCR; use the package that has this model."
        )
    for layout in FORMATS:
        if layout.describes(config):
            return layout
    vision = config.get("vision_config")
    found = vision.get("cls") if isinstance(vision, dict) else vision
    expected = "; or ".join(layout.description for layout in FORMATS)
    raise ValueError(
        f"config.json has the model_type {config.get('model_type')!r} and the vision class {found!r}. Expected an "
        f"original checkpoint of {expected}."
    )


@dataclass(frozen=True)
class OriginalFiles:
    """The small files of one original checkpoint.

    Attributes:
        find: gives a file's path.
        layout: the checkpoint's layout.
        config: config.json.
        images: preprocessor_config.json; empty if there is none.
        processor: processor_config.json; empty if there is none.
        tokenizer: tokenizer_config.json; empty if there is none.
    """

    find: FileFinder
    layout: OriginalFormat
    config: RecordedDict
    images: RecordedDict
    processor: RecordedDict
    tokenizer: RecordedDict

    def load_tokenizer(self, **overrides: Any) -> PreTrainedTokenizerFast:
        """See `load_original_tokenizer`."""
        with naming_bad_values("tokenizer_config.json"):
            positions = section(self.config, "language_config").get("max_position_embeddings", LLAMA_MAX_POSITIONS)
            prompts = self.layout.prompts
            image_token = self.processor.get(prompts.image_token_key, prompts.image_token)
            return load_original_tokenizer(self.find, self.tokenizer, positions, prompts, image_token, **overrides)

    def load_config(self, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
        """The model's config; the special ids are the tokenizer's.

        Raises:
            ValueError: config.json is not understood, or the tokenizer has more tokens than the model.
        """
        with naming_bad_values(CONFIG):
            config = self.layout.read_config(self.config, special_token_ids(tokenizer))
        largest, size = max(tokenizer.get_vocab().values()), config.text_config.vocab_size
        if largest >= size:
            raise ValueError(
                f"The tokenizer has ids up to {largest}, but the model's vocabulary holds {size}. The files belong to "
                "different checkpoints; download them again."
            )
        return config

    def load_image_processor(self) -> BaseImageProcessor:
        """The image processor, with the towers' normalization.

        Raises:
            FileNotFoundError: the file with its settings is missing.
            ValueError: processor and towers do not fit together.
        """
        name = self.layout.images_file
        require(self.find, name)
        with naming_bad_values(f"{name} or {CONFIG}"):
            stored = self.images if name == IMAGES else self.processor
            return self.layout.read_image_processor(stored, self.config)

    def load_processor(
        self,
        tokenizer: PreTrainedTokenizerFast,
        image_processor: BaseImageProcessor,
        processor_class: type[ProcessorMixin] | None = None,
        **overrides: Any,
    ) -> ProcessorMixin:
        """Tokenizer, image processor and the original's chat format in one, of a subclass if one is given.

        Raises:
            ValueError: another chat format or number of image tokens than the model's.
        """
        settings = self.layout.read_processor(self.processor, self.load_config(tokenizer))
        processor_class = processor_class or self.layout.family.processor
        return processor_class(image_processor, tokenizer, **{**settings, **overrides})

    def unread_keys(self) -> Iterator[str]:
        """The keys of the JSON files that nothing has read and that have a meaning."""
        files = {CONFIG: self.config, IMAGES: self.images, PROCESSOR: self.processor, TOKENIZER: self.tokenizer}
        for name, content in files.items():
            yield from (f"{name}: {key}" for key in content.unread())


def read_original(find: FileFinder) -> OriginalFiles:
    """Opens the small files of an original checkpoint.

    Raises:
        FileNotFoundError: config.json is absent.
        ValueError: a file is damaged, or the checkpoint is of another family.
    """
    config = RecordedDict(read_json(require(find, CONFIG)))
    layout = find_format(config)
    check_tokenizer_config(find)
    images = RecordedDict(optional_json(find, IMAGES))
    processor = RecordedDict(optional_json(find, PROCESSOR))
    tokenizer = RecordedDict(optional_json(find, TOKENIZER), nested=False)  # whole tokens are read
    return OriginalFiles(find, layout, config, images, processor, tokenizer)
