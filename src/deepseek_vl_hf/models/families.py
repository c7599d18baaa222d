"""The families' classes, and how they get into transformers' Auto classes.

One table says which classes make up a family.

transformers owns the model types `deepseek_vl` and `deepseek_vl_hybrid`, so two things are needed beyond the public
`register` methods:

* `AutoProcessor` and (before 5.19) `AutoImageProcessor` look the class *names* in a checkpoint's files up in
  transformers' own tables before they look at registrations. The family's entries leave these tables.
* Files carry image processor names of several generations (`X`, `XFast`, `XPil`). transformers itself strips `Fast`;
  an empty subclass named `XPil` makes the third name known.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING, IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, PROCESSOR_MAPPING_NAMES

from .deepseek_vl.configuration_deepseek_vl import DeepseekVLConfig
from .deepseek_vl.image_processing_deepseek_vl import DeepseekVLImageProcessor
from .deepseek_vl.modeling_deepseek_vl import DeepseekVLForConditionalGeneration, DeepseekVLModel
from .deepseek_vl.processing_deepseek_vl import DeepseekVLProcessor
from .deepseek_vl2.configuration_deepseek_vl2 import DeepseekVL2Config
from .deepseek_vl2.image_processing_deepseek_vl2 import DeepseekVL2ImageProcessor
from .deepseek_vl2.modeling_deepseek_vl2 import DeepseekVL2ForConditionalGeneration, DeepseekVL2Model
from .deepseek_vl2.processing_deepseek_vl2 import DeepseekVL2Processor
from .deepseek_vl_hybrid.configuration_deepseek_vl_hybrid import DeepseekVLHybridConfig
from .deepseek_vl_hybrid.image_processing_deepseek_vl_hybrid import DeepseekVLHybridImageProcessor
from .deepseek_vl_hybrid.modeling_deepseek_vl_hybrid import (
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridModel,
)
from .deepseek_vl_hybrid.processing_deepseek_vl_hybrid import DeepseekVLHybridProcessor


@dataclass(frozen=True)
class Family:
    """The classes of one model type."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    generation_model: type[PreTrainedModel]
    image_processor: type[BaseImageProcessor]
    processor: type[ProcessorMixin]


DEEPSEEK_VL = Family(
    config=DeepseekVLConfig,
    model=DeepseekVLModel,
    generation_model=DeepseekVLForConditionalGeneration,
    image_processor=DeepseekVLImageProcessor,
    processor=DeepseekVLProcessor,
)

DEEPSEEK_VL_HYBRID = Family(
    config=DeepseekVLHybridConfig,
    model=DeepseekVLHybridModel,
    generation_model=DeepseekVLHybridForConditionalGeneration,
    image_processor=DeepseekVLHybridImageProcessor,
    processor=DeepseekVLHybridProcessor,
)

DEEPSEEK_VL2 = Family(
    config=DeepseekVL2Config,
    model=DeepseekVL2Model,
    generation_model=DeepseekVL2ForConditionalGeneration,
    image_processor=DeepseekVL2ImageProcessor,
    processor=DeepseekVL2Processor,
)

FAMILIES = (DEEPSEEK_VL, DEEPSEEK_VL_HYBRID, DEEPSEEK_VL2)


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

    def extend_attribute(self, owner: type, name: str, values: list[str]) -> None:
        """Puts values behind those of a class's list."""
        before = getattr(owner, name)
        setattr(owner, name, [*(before or ()), *values])
        self.undo.append(lambda: setattr(owner, name, before))

    def add(self, members: set[str], member: str) -> None:
        """Adds to a set."""
        if member not in members:
            members.add(member)
            self.undo.append(lambda: members.discard(member))


def register_family(family: Family, registrations: Registrations) -> None:
    """Makes the Auto classes use a family's classes for its model type."""
    model_type = family.config.model_type
    for table in (PROCESSOR_MAPPING_NAMES, IMAGE_PROCESSOR_MAPPING_NAMES):
        registrations.take_out(table, model_type)

    registrations.remember(CONFIG_MAPPING._extra_content, model_type)
    AutoConfig.register(model_type, family.config, exist_ok=True)

    auto_models = {
        AutoModel: family.model,
        AutoModelForImageTextToText: family.generation_model,
        AutoModelForMultimodalLM: family.generation_model,
    }
    for auto_class, model_class in auto_models.items():
        registrations.remember(auto_class._model_mapping._extra_content, family.config)
        auto_class.register(family.config, model_class, exist_ok=True)

    registrations.remember(PROCESSOR_MAPPING._extra_content, family.config)
    AutoProcessor.register(family.config, family.processor, exist_ok=True)

    registrations.remember(IMAGE_PROCESSOR_MAPPING._extra_content, family.config)
    AutoImageProcessor.register(
        family.config, image_processor_classes=_image_processor_classes(family.image_processor), exist_ok=True
    )


def _image_processor_classes(image_processor: type) -> dict[str, type]:
    """The one class for both of transformers' backends, and a bearer of the name that older files carry."""
    pil_name = type(image_processor.__name__ + "Pil", (image_processor,), {"__module__": image_processor.__module__})
    return {"pil": image_processor, "torchvision": image_processor, "name_in_files": pil_name}
