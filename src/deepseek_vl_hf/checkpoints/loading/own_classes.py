"""Opening original checkpoints with a family's own classes, and refusing what is another family's.

An Auto class finds the class that fits. `DeepseekVL2Processor.from_pretrained` and its like are told by whoever calls
them, so here the checkpoint says first whose it is: by the class that its files name, else by its model type.
"""

import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, ProcessorMixin

from ...models.families import FAMILIES, Family
from ..layouts.files import CONFIG, IMAGES, PROCESSOR, FileFinder, in_repository, read_json, split_hub_arguments
from ..layouts.original import MODEL_TYPES, OriginalFiles, read_original
from ..layouts.small_files import check_tokenizer_config, explain_failure
from .direct import image_processor_of, own_settings, processor_of


def open_with_own_class(cls: type, name_or_path: Any, arguments: dict[str, Any]) -> Any:
    """See `hf.originals.Opener`.

    Args:
        cls: a family's config, processor or image processor, or a subclass.
        name_or_path: folder or Hub repository.
        arguments: those of `from_pretrained`; for a config what says where the checkpoint lies is taken out.

    Returns:
        An object of `cls`, of a config the family's; None if `cls` reads the checkpoint by itself.

    Raises:
        ValueError: the checkpoint is of another family or model, or damaged.
        FileNotFoundError: there is no such folder, or an original checkpoint lacks a file.
    """
    family = next(each for each in FAMILIES if issubclass(cls, (each.config, each.processor, each.image_processor)))
    hub, _ = split_hub_arguments(arguments)
    if Path(name_or_path).is_file():
        return None  # one file says nothing of the checkpoint
    try:
        find = in_repository(name_or_path, **hub)
        stored = find(CONFIG)
    except FileNotFoundError:
        raise  # neither a folder nor the name of a repository
    except OSError:
        return None  # no such repository, or not to be had; transformers says so
    model_type = None if stored is None else read_json(stored).get("model_type")
    if model_type not in MODEL_TYPES:
        if not issubclass(cls, PreTrainedConfig):  # configs look at the model type by themselves
            _check_family(cls, family, find, model_type)
        if issubclass(cls, ProcessorMixin):
            check_tokenizer_config(find)
        return None
    files = read_original(find)
    if files.layout.family is not family:
        raise ValueError(_is_of(f"an original checkpoint of {_name(files.layout.family)}", cls, files.layout.family))
    return _open(cls, files, name_or_path, arguments)


def explain_own_class(name_or_path: Any, arguments: dict[str, Any], error: Exception) -> None:
    """See `hf.originals.Explainer`."""
    hub, _ = split_hub_arguments(arguments)
    if not isinstance(error, OSError) and not Path(name_or_path).is_file():
        explain_failure(in_repository(name_or_path, **hub), error)


def _open(cls: type, files: OriginalFiles, name_or_path: Any, arguments: dict[str, Any]) -> Any:
    settings = own_settings(arguments)
    if issubclass(cls, PreTrainedConfig):
        arguments.clear()
        arguments.update(settings)
        return files.load_config(files.load_tokenizer())
    if issubclass(cls, ProcessorMixin):
        return processor_of(files, str(name_or_path), settings, cls)
    return image_processor_of(files, settings, cls)


def _check_family(cls: type, family: Family, find: FileFinder, model_type: Any) -> None:
    """Raises ValueError if files of the transformers layout are of another family or model.

    The class that they name decides where it is known: whoever builds a model of their own around a family's processor
    gives it a model type of their own.
    """
    named = {_plain(name) for name in _names_in_files(cls, find)}
    if named & {_plain(base.__name__) for base in cls.__mro__} or model_type == family.config.model_type:
        return
    others = {_plain(each.__name__): other for other in FAMILIES for each in (other.processor, other.image_processor)}
    other = next((others[name] for name in named if name in others), None)
    if other is not None:
        raise ValueError(_is_of(f"a checkpoint of {_name(other)}", cls, other))
    if model_type is not None:
        raise ValueError(
            f"The checkpoint has the model_type {model_type!r}; {cls.__name__} expected {family.config.model_type!r}. "
            "Use AutoProcessor or AutoImageProcessor, which find the class by themselves."
        )


def _names_in_files(cls: type, find: FileFinder) -> list[str]:
    """The class names of that kind in a checkpoint's files."""
    key = "processor_class" if issubclass(cls, ProcessorMixin) else "image_processor_type"
    found = (find(name) for name in (PROCESSOR, IMAGES))
    contents = [read_json(path) for path in found if path is not None]
    contents += [content["image_processor"] for content in contents if isinstance(content.get("image_processor"), dict)]
    return [content[key] for content in contents if isinstance(content.get(key), str)]


def _plain(name: str) -> str:
    """A class name without what transformers adds for its backends."""
    return re.sub("(Fast|Pil)$", "", name)


def _name(family: Family) -> str:
    return family.config.__name__.removesuffix("Config")


def _is_of(found: str, cls: type, family: Family) -> str:
    kind = "Processor" if issubclass(cls, ProcessorMixin) else "Config" if issubclass(cls, PreTrainedConfig) else None
    return (
        f"This is {found}, which {cls.__name__} does not read. Use {_name(family)}{kind or 'ImageProcessor'}, or an "
        f"Auto class such as Auto{kind or 'ImageProcessor'}, which finds the class by itself."
    )
