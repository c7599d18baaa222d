"""Opening original checkpoints with transformers' Auto classes, without converting them.

The Auto classes look up what a checkpoint's files name. The original files name a model type (`multi_modality`,
`deepseek_vl_v2`), a processor (`VLChatProcessor`, `DeepseekVLV2Processor`), an image processor (`VLMImageProcessor`;
DeepSeek-VL2 none) and a tokenizer class that is wrong for them. The classes here carry these names; each gives the
family's real object, the same as a converted checkpoint would.
"""

from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    TokenizersBackend,
    conversion_mapping,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    REGISTERED_TOKENIZER_CLASSES,
    TOKENIZER_MAPPING,
    TOKENIZER_MAPPING_NAMES,
)

from ...models.families import Registrations
from ..layouts import deepseek_vl, deepseek_vl2
from ..layouts.config_fields import RecordedDict, naming_bad_values, section
from ..layouts.files import in_repository, read_json, split_hub_arguments
from ..layouts.formats import CONFIG, OriginalFormat
from ..layouts.original import FORMATS, MODEL_TYPES, OriginalFiles, find_format, is_janus, read_original
from .weight_mapping import ignored_on_load, weight_mapping

# Arguments that the Auto classes pass on and that no tokenizer, image processor or processor takes.
_AUTO_ARGUMENTS = (
    "_from_auto",
    "_from_pipeline",
    "_commit_hash",
    "trust_remote_code",
    "use_fast",
    "user_agent",
    "backend",
)


def open_original(name_or_path: Any, arguments: dict[str, Any]) -> tuple[OriginalFiles, dict[str, Any]]:
    """The small files of a checkpoint that `from_pretrained` got, and the arguments that say something about it."""
    hub, rest = split_hub_arguments(arguments)
    return read_original(in_repository(name_or_path, **hub)), {
        name: value for name, value in rest.items() if name not in _AUTO_ARGUMENTS
    }


class OriginalConfig(PreTrainedConfig):
    """What an original config.json names; reading one gives the family's own config."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Maps an original config.json.

        The special ids are not in that file. They are read from the tokenizer's files where `AutoConfig` says which
        checkpoint it opens; otherwise they are those of the published checkpoints.

        Args:
            config_dict: the file's content.
            **kwargs: as `PreTrainedConfig.from_dict` takes them.

        Returns:
            The family's config.

        Raises:
            ValueError: another family, such as Janus; a value that no checkpoint has; or a vocabulary smaller than the
                published one without the tokenizer's files.
        """
        files = _files_of(config_dict, kwargs.get("name_or_path"))
        if files is not None:
            config = files.load_config(files.load_tokenizer())
        else:
            layout = find_format(config_dict)
            with naming_bad_values(CONFIG):
                config = layout.read_config(RecordedDict(config_dict), _published_token_ids(config_dict, layout))
        return type(config).from_dict(config.to_dict(), **kwargs)


class MultiModalityConfig(OriginalConfig):
    """What DeepSeek-VL's files name."""

    model_type = deepseek_vl.MODEL_TYPE


class DeepseekVLV2Config(OriginalConfig):
    """What DeepSeek-VL2's files name."""

    model_type = deepseek_vl2.MODEL_TYPE


def _files_of(config: dict[str, Any], name_or_path: Any) -> OriginalFiles | None:
    """The checkpoint's files, if those found by its name alone are the ones that the config came with.

    `AutoConfig` keeps revision, subfolder and cache to itself, so another checkpoint's may be found.
    """
    if name_or_path is None:
        return None
    find = in_repository(name_or_path)
    stored = find(CONFIG)
    if stored is None or find("tokenizer.json") is None:
        return None
    same = all(config.get(key) == value for key, value in read_json(stored).items())
    return read_original(find) if same else None


def _published_token_ids(config: dict[str, Any], layout: OriginalFormat) -> dict[str, int]:
    """Those of the largest published vocabulary that the model's holds; fine-tunes may have added to it."""
    published = layout.prompts.token_ids
    size = section(config, "language_config").get("vocab_size", layout.prompts.default_vocabulary)
    fitting = [vocabulary for vocabulary in published if vocabulary <= size]
    if not fitting:
        raise ValueError(
            f"The vocabulary of {size} is smaller than the published one, and no tokenizer.json says which ids are the "
            "special ones. Pass the checkpoint's folder or repository to AutoConfig.from_pretrained."
        )
    return published[max(fitting)]


class OriginalTokenizer(PreTrainedTokenizerFast):
    """What `AutoTokenizer` turns to for this package's models; gives transformers' own tokenizer class."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *inputs: Any, **kwargs: Any) -> Any:
        """Loads the tokenizer of an original checkpoint as it should be, and any other as transformers does.

        Args:
            pretrained_model_name_or_path: folder or Hub repository.
            *inputs: passed on.
            **kwargs: passed on; for an original checkpoint settings of the tokenizer, such as `padding_side`.

        Returns:
            A tokenizer that begins each text with BOS and pads on the left.

        Raises:
            FileNotFoundError, ValueError: see `load_original_tokenizer`.
        """
        hub, _ = split_hub_arguments(kwargs)
        config = in_repository(pretrained_model_name_or_path, **hub)(CONFIG)
        if config is None or not _is_original(read_json(config)):
            return TokenizersBackend.from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
        files, settings = open_original(pretrained_model_name_or_path, kwargs)
        return files.load_tokenizer(name_or_path=str(pretrained_model_name_or_path), **settings)


def _is_original(config: dict[str, Any]) -> bool:
    return config.get("model_type") in MODEL_TYPES and not is_janus(config)


class VLMImageProcessor(BaseImageProcessor):
    """What an original preprocessor_config.json names."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Loads the image processor of an original checkpoint.

        Args:
            pretrained_model_name_or_path: folder or Hub repository.
            **kwargs: where to find it, and settings that replace the checkpoint's.

        Returns:
            A `DeepseekVLImageProcessor` or `DeepseekVLHybridImageProcessor`.

        Raises:
            FileNotFoundError, ValueError: a file is missing, damaged, or of another family.
        """
        files, settings = open_original(pretrained_model_name_or_path, kwargs)
        return files.layout.family.image_processor.from_dict(files.load_image_processor().to_dict(), **settings)


class OriginalProcessor(ProcessorMixin):
    """What an original processor_config.json names; reading one gives the family's own processor."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Loads the processor of an original checkpoint.

        Args:
            pretrained_model_name_or_path: folder or Hub repository.
            **kwargs: where to find it, `chat_template` (for DeepSeek-VL2 also `tiling`), and settings of tokenizer
                (such as `padding_side`) or image processor (such as `min_size`) that replace the checkpoint's.

        Returns:
            The family's processor.

        Raises:
            FileNotFoundError, ValueError: a file is missing, damaged, or of another family.
        """
        files, settings = open_original(pretrained_model_name_or_path, kwargs)
        image_class = files.layout.family.image_processor
        of_processor = {name: settings.pop(name) for name in ("chat_template", "tiling") if name in settings}
        of_images = {name: settings.pop(name) for name in list(settings) if hasattr(image_class, name)}
        tokenizer = files.load_tokenizer(name_or_path=str(pretrained_model_name_or_path), **settings)
        images = image_class.from_dict(files.load_image_processor().to_dict(), **of_images)
        return files.load_processor(tokenizer, images, **of_processor)


class VLChatProcessor(OriginalProcessor):
    """What DeepSeek-VL's files name."""


class DeepseekVLV2Processor(OriginalProcessor):
    """What DeepSeek-VL2's files name."""


# Config and processor that the files of a model type name.
NAMED_IN_FILES: tuple[tuple[type[OriginalConfig], type[OriginalProcessor]], ...] = (
    (MultiModalityConfig, VLChatProcessor),
    (DeepseekVLV2Config, DeepseekVLV2Processor),
)


def register_original_checkpoints(registrations: Registrations) -> None:
    """Makes the Auto classes open original checkpoints."""
    for config, processor in NAMED_IN_FILES:
        registrations.remember(CONFIG_MAPPING._extra_content, config.model_type)
        AutoConfig.register(config.model_type, config, exist_ok=True)
        registrations.remember(PROCESSOR_MAPPING._extra_content, config)
        AutoProcessor.register(config, processor, exist_ok=True)
        # AutoTokenizer goes by the original model type where AutoConfig failed; then the tokenizer tells why.
        _register_tokenizer(config, registrations)
    registrations.remember(IMAGE_PROCESSOR_MAPPING._extra_content, MultiModalityConfig)
    AutoImageProcessor.register(
        MultiModalityConfig,
        image_processor_classes={"pil": VLMImageProcessor, "torchvision": VLMImageProcessor},
        exist_ok=True,
    )
    for layout in FORMATS:
        _register_tokenizer(layout.family.config, registrations)
        _register_weights(layout, registrations)


def _register_tokenizer(config: type[PreTrainedConfig], registrations: Registrations) -> None:
    """Sends `AutoTokenizer` to `OriginalTokenizer` whatever class the files name: the published name is wrong."""
    registrations.remember(REGISTERED_TOKENIZER_CLASSES, OriginalTokenizer.__name__)
    registrations.remember(TOKENIZER_MAPPING._extra_content, config)
    AutoTokenizer.register(config, OriginalTokenizer, exist_ok=True)
    registrations.take_out(TOKENIZER_MAPPING_NAMES, config.model_type)
    registrations.remember(TOKENIZER_MAPPING_NAMES, config.model_type)
    TOKENIZER_MAPPING_NAMES[config.model_type] = OriginalTokenizer.__name__
    registrations.add(MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS, config.model_type)


def _register_weights(layout: OriginalFormat, registrations: Registrations) -> None:
    """Lets `from_pretrained` apply the layout's table; names of the transformers layout are not touched by it."""
    model_type = layout.family.config.model_type
    conversion_mapping.get_checkpoint_conversion_mapping(model_type)  # builds the cache that is written to
    registrations.remember(conversion_mapping._checkpoint_conversion_mapping_cache, model_type)
    registrations.add(conversion_mapping.USER_REGISTERED_MAPPINGS, model_type)
    mapping = [*weight_mapping(layout.rules), *layout.stored_conversions()]
    conversion_mapping.register_checkpoint_conversion_mapping(model_type, mapping, overwrite=True)
    for model in (layout.family.model, layout.family.generation_model):
        registrations.extend_attribute(model, "_keys_to_ignore_on_load_unexpected", ignored_on_load(layout.rules))
