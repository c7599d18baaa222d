"""Getting classes into transformers' tables, and out of them again.

transformers owns the model types `deepseek_vl` and `deepseek_vl_hybrid`, so two things are needed beyond the public
`register` methods:

* `AutoProcessor` and (before 5.19) `AutoImageProcessor` look the class *names* in a checkpoint's files up in
  transformers' own tables before they look at registrations. The model type's entries leave these tables.
* Files carry image processor names of several generations (`X`, `XFast`, `XPil`). transformers itself strips `Fast`;
  an empty subclass named `XPil` makes the third name known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    conversion_mapping,
)
from transformers.integrations.moe import ExpertsInterface
from transformers.masking_utils import sdpa_mask
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING, IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, PROCESSOR_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    REGISTERED_TOKENIZER_CLASSES,
    TOKENIZER_MAPPING,
    TOKENIZER_MAPPING_NAMES,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)

from .loading import ConversionsOfOurs, LoadingTable, set_table
from .pipelines import PIPELINES


@dataclass
class Registrations:
    """What was changed in transformers' tables, so that it can be taken back."""

    undo: list[Callable[[], None]] = field(default_factory=list)

    def take_back(self) -> None:
        """Restores the tables, the last change first."""
        while self.undo:
            self.undo.pop()()

    def take_out(self, table: dict[str, Any], key: str) -> None:
        """Removes an entry; undoing puts it back where it stood, because the order of tables decides look-ups."""
        if key not in table:
            return
        position = list(table).index(key)
        value = table.pop(key)

        def put_back() -> None:
            rest = list(table.items())
            table.clear()
            table.update([*rest[:position], (key, value), *rest[position:]])

        self.undo.append(put_back)

    def remember(self, table: dict[Any, Any], key: Any) -> None:
        """Notes what a registration is about to replace."""
        present, value = key in table, table.get(key)

        def restore() -> None:
            table.pop(key, None)
            if present:
                table[key] = value

        self.undo.append(restore)

    def add(self, members: set[str], member: str) -> None:
        """Adds to a set."""
        if member not in members:
            members.add(member)
            self.undo.append(lambda: members.discard(member))


def register_config(config: type, registrations: Registrations) -> None:
    """Makes `AutoConfig` give a class for its model type."""
    model_type: str = config.model_type  # type: ignore[attr-defined]
    registrations.remember(CONFIG_MAPPING._extra_content, model_type)
    AutoConfig.register(model_type, config, exist_ok=True)


def register_models(config: type, models: Mapping[Any, type], registrations: Registrations) -> None:
    """Makes Auto classes give models for a config.

    Args:
        config: the config's class.
        models: Auto classes, and the class that each gives.
        registrations: what can be taken back.
    """
    for auto_class, model_class in models.items():
        registrations.remember(auto_class._model_mapping._extra_content, config)
        auto_class.register(config, model_class, exist_ok=True)


def register_processor(config: type, processor: type, registrations: Registrations) -> None:
    """Makes `AutoProcessor` give a class, whatever class of transformers the files of the model type name."""
    registrations.take_out(PROCESSOR_MAPPING_NAMES, config.model_type)  # type: ignore[attr-defined]
    registrations.remember(PROCESSOR_MAPPING._extra_content, config)
    AutoProcessor.register(config, processor, exist_ok=True)


def register_image_processor(config: type, image_processor: type, registrations: Registrations) -> None:
    """Makes `AutoImageProcessor` give a class for both of transformers' backends, and under its names in files."""
    pil_name = type(image_processor.__name__ + "Pil", (image_processor,), {"__module__": image_processor.__module__})
    classes = {"pil": image_processor, "torchvision": image_processor, "name_in_files": pil_name}
    registrations.take_out(IMAGE_PROCESSOR_MAPPING_NAMES, config.model_type)  # type: ignore[attr-defined]
    registrations.remember(IMAGE_PROCESSOR_MAPPING._extra_content, config)
    AutoImageProcessor.register(config, image_processor_classes=classes, exist_ok=True)


def register_tokenizer(config: type, tokenizer: type, registrations: Registrations) -> None:
    """Sends `AutoTokenizer` to a class whatever class the files of the model type name."""
    model_type: str = config.model_type  # type: ignore[attr-defined]
    registrations.remember(REGISTERED_TOKENIZER_CLASSES, tokenizer.__name__)
    registrations.remember(TOKENIZER_MAPPING._extra_content, config)
    AutoTokenizer.register(config, tokenizer, exist_ok=True)
    registrations.take_out(TOKENIZER_MAPPING_NAMES, model_type)
    registrations.remember(TOKENIZER_MAPPING_NAMES, model_type)
    TOKENIZER_MAPPING_NAMES[model_type] = tokenizer.__name__
    registrations.add(MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS, model_type)


def register_loading(
    model_type: str, tables: Mapping[type, LoadingTable], for_all: list[Any], registrations: Registrations
) -> None:
    """Lets `from_pretrained` of some classes apply conversions to what it reads.

    Args:
        model_type: of their config.
        tables: for each class its own.
        for_all: conversions that whoever else asks for the model type gets; empty if it is one of transformers' own.
        registrations: what can be taken back.
    """
    before = conversion_mapping.get_checkpoint_conversion_mapping(model_type)  # builds the cache that is written to
    registrations.remember(conversion_mapping._checkpoint_conversion_mapping_cache, model_type)
    registrations.add(conversion_mapping.USER_REGISTERED_MAPPINGS, model_type)
    conversions = ConversionsOfOurs(elsewhere=for_all or before)
    conversion_mapping.register_checkpoint_conversion_mapping(model_type, conversions, overwrite=True)
    for model_class, table in tables.items():
        set_table(model_class, table)
        registrations.undo.append(lambda model_class=model_class: set_table(model_class, None))  # type: ignore[misc]


def register_quantization(name: str, config: type, quantizer: type, registrations: Registrations) -> None:
    """Makes transformers know a kind of quantized weights, as argument of `from_pretrained` and in saved models."""
    for table in (AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING):
        registrations.remember(table, name)
    register_quantization_config(name)(config)
    register_quantizer(name)(quantizer)


def register_attention(name: str, function: Callable[..., Any], registrations: Registrations) -> None:
    """Makes an attention known that wants the masks of `sdpa`."""
    for interface, value in ((AttentionInterface, function), (AttentionMaskInterface, sdpa_mask)):
        registrations.remember(interface._global_mapping, name)
        interface.register(name, value)


def register_experts(name: str, function: Callable[..., Any], registrations: Registrations) -> None:
    """Makes an implementation of experts known."""
    registrations.remember(ExpertsInterface._global_mapping, name)
    ExpertsInterface.register(name, function)


def register_pipelines(registrations: Registrations) -> None:
    """Makes `pipeline()` give the pipelines of this room for their tasks."""
    for task, pipeline_class in PIPELINES.items():
        entry = PIPELINE_REGISTRY.supported_tasks[task]
        registrations.remember(entry, "impl")
        entry["impl"] = pipeline_class
