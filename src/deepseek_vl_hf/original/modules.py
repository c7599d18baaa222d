"""The originals' module names, `deepseek_vl` and `deepseek_vl2`, with this package's classes behind them."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from typing import Any

from transformers.utils import logging

from ..models import original_calls
from . import conversations, inference, outputs, vl2_processor, vl_processor

logger = logging.get_logger(__name__)

_VL_CONVERSATIONS = {
    name: getattr(conversations, name) for name in ("Conversation", "SeparatorStyle", "get_conv_template")
}
_PICTURES = {"load_pil_images": inference.load_pil_images, "load_json": inference.load_json}
_VL = {
    "MultiModalityCausalLM": original_calls.MultiModalityCausalLM,
    "VLChatProcessor": vl_processor.VLChatProcessor,
    "VLMImageProcessor": vl_processor.VLMImageProcessor,
}
_VL2 = {
    "DeepseekVLV2ForCausalLM": original_calls.DeepseekVLV2ForCausalLM,
    "DeepseekVLV2Processor": vl2_processor.DeepseekVLV2Processor,
}

# Of each module what it holds. The first model card of DeepSeek-VL2 imports its classes from `deepseek_vl`.
MODULES: dict[str, dict[str, Any]] = {
    "deepseek_vl": {},
    "deepseek_vl.models": {**_VL, **_VL2},
    "deepseek_vl.models.image_processing_vlm": {"VLMImageProcessor": vl_processor.VLMImageProcessor},
    "deepseek_vl.models.modeling_vlm": {"MultiModalityCausalLM": original_calls.MultiModalityCausalLM},
    "deepseek_vl.models.processing_vlm": {
        "BatchedVLChatProcessorOutput": outputs.BatchedVLChatProcessorOutput,
        "VLChatProcessor": vl_processor.VLChatProcessor,
        "VLChatProcessorOutput": outputs.VLChatProcessorOutput,
    },
    "deepseek_vl.serve": {},
    "deepseek_vl.serve.inference": {
        "convert_conversation_to_prompts": inference.convert_conversation_to_prompts,
        "deepseek_generate": inference.deepseek_generate,
        "generate": inference.generate,
        "load_model": inference.load_model,
    },
    "deepseek_vl.utils": {},
    "deepseek_vl.utils.conversation": _VL_CONVERSATIONS,
    "deepseek_vl.utils.io": {**_PICTURES, "load_pretrained_model": inference.load_pretrained_model},
    "deepseek_vl2": {},
    "deepseek_vl2.models": _VL2,
    "deepseek_vl2.models.conversation": {
        **_VL_CONVERSATIONS,
        "get_conv_template": conversations.get_vl2_conv_template,
    },
    "deepseek_vl2.models.modeling_deepseek_vl_v2": {"DeepseekVLV2ForCausalLM": original_calls.DeepseekVLV2ForCausalLM},
    "deepseek_vl2.models.processing_deepseek_vl_v2": {
        "BatchCollateOutput": outputs.BatchCollateOutput,
        "DeepseekVLV2Processor": vl2_processor.DeepseekVLV2Processor,
        "VLChatProcessorOutput": outputs.VL2ChatProcessorOutput,
    },
    "deepseek_vl2.serve": {},
    "deepseek_vl2.serve.app_modules": {},
    "deepseek_vl2.serve.app_modules.utils": {"parse_ref_bbox": inference.parse_ref_bbox},
    "deepseek_vl2.serve.inference": {
        "convert_conversation_to_prompts": inference.convert_vl2_conversation_to_prompts,
        "deepseek_generate": inference.vl2_deepseek_generate,
        "generate": inference.generate,
        "load_model": inference.load_vl2_model,
    },
    "deepseek_vl2.utils": {},
    "deepseek_vl2.utils.io": {**_PICTURES, "load_pretrained_model": inference.load_vl2_pretrained_model},
}
PACKAGES = ("deepseek_vl", "deepseek_vl2")
# Where what the originals compute inside is found here.
_ELSEWHERE = {
    "siglip_vit": "the towers are transformers.SiglipVisionModel in model.model.vision_model",
    "sam": "the tower is deepseek_vl_hf.models.sam.SamEncoder in model.model.high_res_vision_model",
    "clip_encoder": "the towers are parts of DeepseekVLModel and DeepseekVLHybridModel",
    "projector": "the aligner is model.model.aligner",
    "modeling_deepseek": "the language model is deepseek_vl_hf.models.deepseek_moe's, in model.model.language_model",
    "configuration_deepseek": "the config is DeepseekVL2Config.text_config",
    "modeling_vlm": "the models are DeepseekVLForConditionalGeneration and DeepseekVLHybridForConditionalGeneration",
    "modeling_deepseek_vl_v2": "the model is DeepseekVL2ForConditionalGeneration",
    "app_modules": "the page is `deepseek-vl demo`",
    "app_deepseek": "the page is `deepseek-vl demo`",
}


def install() -> None:
    """Makes `deepseek_vl` and `deepseek_vl2` importable in this process; a second call changes nothing.

    An original package that is installed, or imported already, stays in use, and a warning names it. One that merely
    lies on the path, such as a clone in the current folder, is passed over with a warning.
    """
    if not any(isinstance(finder, _NamesWhatIsMissing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NamesWhatIsMissing())
    for package in PACKAGES:
        if not _is_ours(package) and not _stays(package):
            _install(package)


def uninstall() -> None:
    """Takes the names back that `install` made importable; what was imported from them goes on working."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _NamesWhatIsMissing)]
    for name in MODULES:
        if _is_ours(name):
            del sys.modules[name]


def _is_ours(name: str) -> bool:
    return isinstance(sys.modules.get(name), _Module)


def _stays(package: str) -> bool:
    """Whether an original package is used; says so, or that a folder of this name is not."""
    try:
        spec = importlib.util.find_spec(package)
    except (ValueError, ModuleNotFoundError):
        spec = None
    place = "" if spec is None else f" in {spec.origin or next(iter(spec.submodule_search_locations or ()), '')}"
    try:
        version = distribution(package).version
    except PackageNotFoundError:
        version = None
    if version is None and package not in sys.modules:
        if spec is not None:
            logger.warning(f"Found {package}{place}; it is passed over, and deepseek_vl_hf's is used.")
        return False
    logger.warning(
        f"Found {package} {version or ''}{place}, which stays in use. To have deepseek_vl_hf's, run `pip uninstall "
        f"{package}`, and call install() before anything imports it."
    )
    return True


def _install(package: str) -> None:
    for name, content in MODULES.items():
        if name.partition(".")[0] == package:
            module = _Module(name, content)
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)


class _Module(ModuleType):
    """One of the modules."""

    def __init__(self, name: str, content: dict[str, Any]) -> None:
        super().__init__(name, "See deepseek_vl_hf.original.")
        self.__spec__ = ModuleSpec(name, None, origin="deepseek_vl_hf.original", is_package=True)
        self.__path__: list[str] = []
        vars(self).update(content)


class _NamesWhatIsMissing:
    """Among Python's finders of modules: the originals' other modules are named in an error of their own."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        if _is_ours(name.partition(".")[0]):
            # Without a `name`, by which Python would take it for the plain absence of a module and drop the message.
            raise ModuleNotFoundError(_missing(name))


def _missing(name: str) -> str:
    known = next((text for part in name.split(".") if (text := _ELSEWHERE.get(part))), None)
    hint = f" Here {known}." if known else " deepseek_vl_hf.original.modules.MODULES lists what there is."
    return f"deepseek_vl_hf has no {name}.{hint}"
