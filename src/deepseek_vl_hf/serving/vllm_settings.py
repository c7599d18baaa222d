"""What vLLM is told about a family's checkpoint before it loads it; only vLLM's plugin imports this."""

import os
from importlib.util import find_spec
from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform
from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

from ..checkpoints.layouts.files import CONFIG, in_repository, read_json, require
from .vllm_checkpoints import refusal

# The name under which vLLM knows how we make ids of messages.
MODE = "deepseek_vl_hf"


class FamilySettings(VerifyAndUpdateConfig):
    """Refuses what would fail later with a riddle, or answer nonsense."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Called when vLLM has read config.json.

        Raises:
            ValueError: vLLM cannot take the checkpoint; the sentence says what to do.
        """
        _refuse(model_config)
        if current_platform.is_cpu():
            # Keys and values of latent attention are cached, unless the environment says what vLLM is to do.
            os.environ.setdefault("VLLM_MLA_DISABLE", "1")
            model_config.model_arch_config = model_config.get_model_arch_config()  # which goes by that
        if model_config.tokenizer_mode == "auto":
            model_config.tokenizer_mode = MODE


class OriginalSettings(VerifyAndUpdateConfig):
    """For originals of DeepSeek-VL2, of which vLLM has a model of its own that leans on timm."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Called when vLLM has read config.json.

        Raises:
            ValueError: vLLM's own model is not wanted, or timm is not there; the sentence says what to do.
        """
        if model_config.model_impl == "transformers" or find_spec("timm") is None:
            _refuse(model_config)


def _refuse(model_config: Any) -> None:
    file = require(in_repository(model_config.model, revision=model_config.revision), CONFIG)
    reason = refusal(read_json(file), model_config.model, current_platform.is_cpu())
    if reason:
        raise ValueError(reason)


class LatentArchitecture(ModelArchConfigConvertorBase):
    """What vLLM reads from a DeepSeek-VL2 config: whether attention is latent, and how wide what is cached is."""

    def is_deepseek_mla(self) -> bool:
        """Whether it is; vLLM itself knows a list of model types."""
        return self.hf_text_config.kv_lora_rank is not None
