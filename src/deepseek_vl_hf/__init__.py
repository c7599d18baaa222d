"""DeepSeek-VL models in Hugging Face transformers.

Importing the package registers its classes, so that `pipeline("image-text-to-text")` and the Auto classes use them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import program as _program  # noqa: F401 # first, see there
from .cpu.dtypes import fast_dtype
from .cpu.packed_weights import packing_report, prepack_weights
from .hf.versions import warn_if_untested
from .models.deepseek_ocr.configuration_deepseek_ocr import DeepseekOCRConfig
from .models.deepseek_ocr.image_processing_deepseek_ocr import DeepseekOCRImageProcessor
from .models.deepseek_ocr.modeling_deepseek_ocr import DeepseekOCRForConditionalGeneration, DeepseekOCRModel
from .models.deepseek_ocr.processing_deepseek_ocr import DeepseekOCRProcessor
from .models.deepseek_vl.configuration_deepseek_vl import DeepseekVLConfig
from .models.deepseek_vl.image_processing_deepseek_vl import DeepseekVLImageProcessor
from .models.deepseek_vl.modeling_deepseek_vl import DeepseekVLForConditionalGeneration, DeepseekVLModel
from .models.deepseek_vl.processing_deepseek_vl import DeepseekVLProcessor
from .models.deepseek_vl2.configuration_deepseek_vl2 import DeepseekVL2Config
from .models.deepseek_vl2.image_processing_deepseek_vl2 import DeepseekVL2ImageProcessor
from .models.deepseek_vl2.modeling_deepseek_vl2 import DeepseekVL2ForConditionalGeneration, DeepseekVL2Model
from .models.deepseek_vl2.processing_deepseek_vl2 import DeepseekVL2Processor
from .models.deepseek_vl_hybrid.configuration_deepseek_vl_hybrid import DeepseekVLHybridConfig
from .models.deepseek_vl_hybrid.image_processing_deepseek_vl_hybrid import DeepseekVLHybridImageProcessor
from .models.deepseek_vl_hybrid.modeling_deepseek_vl_hybrid import (
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridModel,
)
from .models.deepseek_vl_hybrid.processing_deepseek_vl_hybrid import DeepseekVLHybridProcessor
from .models.repetition import NgramBan
from .nano.folder import example_picture, nano_path
from .quantization import int4_config, quantization_report
from .registration import register, unregister
from .version import __version__

if TYPE_CHECKING:
    from .chat import Chat
    from .training.collator import ConversationCollator
    from .training.files import load_conversations
    from .training.grpo import grpo_processor
    from .training.lora import lora_config

__all__ = [
    "Chat",
    "ConversationCollator",
    "DeepseekOCRConfig",
    "DeepseekOCRForConditionalGeneration",
    "DeepseekOCRImageProcessor",
    "DeepseekOCRModel",
    "DeepseekOCRProcessor",
    "DeepseekVL2Config",
    "DeepseekVL2ForConditionalGeneration",
    "DeepseekVL2ImageProcessor",
    "DeepseekVL2Model",
    "DeepseekVL2Processor",
    "DeepseekVLConfig",
    "DeepseekVLForConditionalGeneration",
    "DeepseekVLHybridConfig",
    "DeepseekVLHybridForConditionalGeneration",
    "DeepseekVLHybridImageProcessor",
    "DeepseekVLHybridModel",
    "DeepseekVLHybridProcessor",
    "DeepseekVLImageProcessor",
    "DeepseekVLModel",
    "DeepseekVLProcessor",
    "NgramBan",
    "__version__",
    "example_picture",
    "fast_dtype",
    "grpo_processor",
    "int4_config",
    "load_conversations",
    "lora_config",
    "nano_path",
    "packing_report",
    "prepack_weights",
    "quantization_report",
    "register",
    "unregister",
]

# Registration needs the other names anyway. These, and what they import, come when they are asked for.
_ON_DEMAND = {
    "Chat": "chat",
    "ConversationCollator": "training.collator",
    "grpo_processor": "training.grpo",
    "load_conversations": "training.files",
    "lora_config": "training.lora",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_ON_DEMAND[name]}", __name__), name)
    globals()[name] = value  # the next time it is found without this function
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


warn_if_untested()
register()
