"""The families' classes: which make up a family stands in one table; and which family a checkpoint is of."""

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from .deepseek_ocr.configuration_deepseek_ocr import DeepseekOCRConfig
from .deepseek_ocr.image_processing_deepseek_ocr import DeepseekOCRImageProcessor
from .deepseek_ocr.modeling_deepseek_ocr import DeepseekOCRForConditionalGeneration, DeepseekOCRModel
from .deepseek_ocr.processing_deepseek_ocr import DeepseekOCRProcessor
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

DEEPSEEK_OCR = Family(
    config=DeepseekOCRConfig,
    model=DeepseekOCRModel,
    generation_model=DeepseekOCRForConditionalGeneration,
    image_processor=DeepseekOCRImageProcessor,
    processor=DeepseekOCRProcessor,
)

FAMILIES = (DEEPSEEK_VL, DEEPSEEK_VL_HYBRID, DEEPSEEK_VL2, DEEPSEEK_OCR)


def config_of(folder: Path) -> PreTrainedConfig:
    """A checkpoint's config.

    Raises:
        ValueError: it is not one of this package's families.
    """
    config = AutoConfig.from_pretrained(folder)
    known = [family.config.model_type for family in FAMILIES]
    if config.model_type not in known:
        raise ValueError(f"{folder} is a {config.model_type}; expected one of {', '.join(known)}.")
    return config
