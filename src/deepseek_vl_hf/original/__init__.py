"""The interface of the original packages, `deepseek_vl` and `deepseek_vl2`, on this package's models and processors.

`install()` makes both names importable in this process; `python -m deepseek_vl_hf.original script.py` runs a script
that imports them. The classes can also be imported from here.
"""

from ..models.original_calls import DeepseekVLV2ForCausalLM, MultiModalityCausalLM
from .conversations import Conversation, SeparatorStyle, get_conv_template
from .inference import load_pil_images, load_pretrained_model, parse_ref_bbox
from .modules import install, uninstall
from .vl2_processor import DeepseekVLV2Processor
from .vl_processor import VLChatProcessor, VLMImageProcessor

__all__ = [
    "Conversation",
    "DeepseekVLV2ForCausalLM",
    "DeepseekVLV2Processor",
    "MultiModalityCausalLM",
    "SeparatorStyle",
    "VLChatProcessor",
    "VLMImageProcessor",
    "get_conv_template",
    "install",
    "load_pil_images",
    "load_pretrained_model",
    "parse_ref_bbox",
    "uninstall",
]
