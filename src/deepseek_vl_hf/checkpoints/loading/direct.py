"""Opening original checkpoints with transformers' Auto classes, without converting them.

The Auto classes look up what a checkpoint's files name. The original files name a model type (`multi_modality`,
`deepseek_vl_v2`), a processor (`VLChatProcessor`, `DeepseekVLV2Processor`), an image processor (`VLMImageProcessor`;
DeepSeek-VL2 none) and a tokenizer class that is wrong for them. The classes here carry these names; each gives the
family's real object, the same as a converted checkpoint would.
"""

from typing import Any

from transformers import (
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    TokenizersBackend,
)
from transformers.image_processing_utils import BaseImageProcessor

from ...hf.elsewhere import as_if_unregistered, config_from_its_own_code
from ..layouts import deepseek_ocr, deepseek_vl, deepseek_vl2
from ..layouts.config_fields import RecordedDict, naming_bad_values, section
from ..layouts.files import CONFIG, in_repository, read_json, split_hub_arguments
from ..layouts.formats import OriginalFormat
from ..layouts.original import (
    MODEL_TYPES,
    OriginalFiles,
    find_format,
    is_another_model,
    is_janus,
    read_original,
)
from ..layouts.small_files import check_tokenizer_config, explain_failure

# Arguments that the Auto classes pass on and that no tokenizer, image processor or processor takes.
_AUTO_ARGUMENTS = ("trust_remote_code", "use_fast", "user_agent", "backend")


def open_original(name_or_path: Any, arguments: dict[str, Any]) -> tuple[OriginalFiles, dict[str, Any]]:
    """The small files of a checkpoint that `from_pretrained` got, and the arguments that say something about it."""
    hub, _ = split_hub_arguments(arguments)
    return read_original(in_repository(name_or_path, **hub)), own_settings(arguments)


def own_settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `from_pretrained` without those that say where the files are or are the Auto classes' own."""
    _, rest = split_hub_arguments(arguments)
    return {name: value for name, value in rest.items() if name not in _AUTO_ARGUMENTS and not name.startswith("_")}


def image_processor_of(files: OriginalFiles, settings: dict[str, Any], image_class: type | None = None) -> Any:
    """The image processor of an original checkpoint, of its family's class unless a subclass is given."""
    image_class = image_class or files.layout.family.image_processor
    return image_class.from_dict(files.load_image_processor().to_dict(), **settings)  # type: ignore[attr-defined]


def processor_of(files: OriginalFiles, name: str, settings: dict[str, Any], processor_class: type | None = None) -> Any:
    """The processor of an original checkpoint, of its family's class unless a subclass is given.

    Args:
        files: the checkpoint.
        name: where it lies; the tokenizer remembers it.
        settings: of processor, tokenizer or image processor, by which the checkpoint's are replaced.
        processor_class: a subclass of the family's.
    """
    image_class = files.layout.family.image_processor
    settings = dict(settings)
    of_processor = {key: settings.pop(key) for key in ("chat_template", "tiling") if key in settings}
    of_images = {key: settings.pop(key) for key in list(settings) if hasattr(image_class, key)}
    tokenizer = files.load_tokenizer(name_or_path=name, **settings)
    return files.load_processor(tokenizer, image_processor_of(files, of_images), processor_class, **of_processor)


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
            The family's config; of another model with the same model type, such as DeepSeek-OCR-2, what its own code
            gives, if that is trusted.

        Raises:
            ValueError: another family, such as Janus; a value that no checkpoint has; quantized weights; or a
                vocabulary smaller than the published one without the tokenizer's files.
        """
        if is_another_model(config_dict):
            return config_from_its_own_code(config_dict)
        if config_dict.get("quantization_config"):
            raise ValueError(
                "config.json is in the original layout and has a quantization_config; the originals have no quantized "
                "weights, so nothing says which of their tensors these are. Load the checkpoint that it was made from, "
                "with quantization_config=deepseek_vl_hf.int4_config() for 4-bit weights."
            )
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
    """What DeepSeek-VL2's and DeepSeek-OCR's files name."""

    model_type = deepseek_vl2.MODEL_TYPE


class ResavedDeepseekOCRConfig(OriginalConfig):
    """What copies of DeepSeek-OCR name that were saved again."""

    (model_type,) = deepseek_ocr.RESAVED_MODEL_TYPES


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
            FileNotFoundError: see `load_original_tokenizer`.
            ValueError: a file is damaged, or holds a value of another kind than its name needs.
        """
        config, of_others = _read_config(pretrained_model_name_or_path, kwargs)
        if of_others is not None:
            # Trust was answered before; without it transformers goes by the tokenizer's own files.
            with as_if_unregistered(of_others):
                return AutoTokenizer.from_pretrained(
                    pretrained_model_name_or_path, *inputs, trust_remote_code=False, **_public(kwargs)
                )
        if config.get("model_type") not in MODEL_TYPES:
            find = in_repository(pretrained_model_name_or_path, **split_hub_arguments(kwargs)[0])
            check_tokenizer_config(find)
            try:
                return TokenizersBackend.from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
            except Exception as error:
                explain_failure(find, error)
                raise
        files, settings = open_original(pretrained_model_name_or_path, kwargs)
        return files.load_tokenizer(name_or_path=str(pretrained_model_name_or_path), **settings)


def _is_of_others(config: dict[str, Any]) -> bool:
    """Whether a config.json has a model type of original checkpoints and is of another model."""
    return config.get("model_type") in MODEL_TYPES and (is_another_model(config) or is_janus(config))


def _config_class(config: dict[str, Any]) -> type[PreTrainedConfig]:
    return next(each for each, _ in NAMED_IN_FILES if each.model_type == config["model_type"])


def _public(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if not name.startswith("_")}


def _read_config(name_or_path: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], type[PreTrainedConfig] | None]:
    """A checkpoint's config.json, and the class that is registered for it if it is of another model."""
    hub, _ = split_hub_arguments(arguments)
    stored = in_repository(name_or_path, **hub)(CONFIG)
    config = {} if stored is None else read_json(stored)
    return config, _config_class(config) if _is_of_others(config) else None


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
        return image_processor_of(files, settings)


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
        config, of_others = _read_config(pretrained_model_name_or_path, kwargs)
        if of_others is not None and is_another_model(config):
            with as_if_unregistered(of_others):
                return AutoProcessor.from_pretrained(pretrained_model_name_or_path, **_public(kwargs))
        files, settings = open_original(pretrained_model_name_or_path, kwargs)
        return processor_of(files, str(pretrained_model_name_or_path), settings)


class VLChatProcessor(OriginalProcessor):
    """What DeepSeek-VL's files name."""


class DeepseekVLV2Processor(OriginalProcessor):
    """What DeepSeek-VL2's and DeepSeek-OCR's files name."""


class ResavedDeepseekOCRProcessor(OriginalProcessor):
    """The same for copies of DeepSeek-OCR that were saved again; a class of its own, because tables go by the name."""


# Config and processor that the files of a model type name.
NAMED_IN_FILES: tuple[tuple[type[OriginalConfig], type[OriginalProcessor]], ...] = (
    (MultiModalityConfig, VLChatProcessor),
    (DeepseekVLV2Config, DeepseekVLV2Processor),
    (ResavedDeepseekOCRConfig, ResavedDeepseekOCRProcessor),
)
