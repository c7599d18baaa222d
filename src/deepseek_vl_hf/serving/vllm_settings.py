"""What vLLM is told about a family's checkpoint before it loads it; only vLLM's plugin imports this."""

from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform

from ..checkpoints.layouts.files import CONFIG, in_repository, read_json, require
from .vllm_checkpoints import refusal
from .vllm_plugin import MODE, expand_latents_on_cpu


class FamilySettings(VerifyAndUpdateConfig):
    """Refuses what would fail later with a riddle, or answer nonsense."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Called when vLLM has read config.json.

        Raises:
            ValueError: vLLM cannot take the checkpoint; the sentence says what to do.
        """
        on_cpu = current_platform.is_cpu()
        file = require(in_repository(model_config.model, revision=model_config.revision), CONFIG)
        reason = refusal(read_json(file), model_config.model, on_cpu)
        if reason:
            raise ValueError(reason)
        if on_cpu:
            expand_latents_on_cpu()
        if model_config.tokenizer_mode == "auto":
            model_config.tokenizer_mode = MODE
