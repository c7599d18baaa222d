"""The language model with its head by itself, as the original packages have it."""

from typing import Any

import torch
from torch import nn

from ..hf.versions import CHECKPOINTING


class LanguageModel(nn.Module):
    """A model's language model with its head, as the original's `language_model`: a view, which holds no weights.

    Freezing it leaves the towers alone, and so does gradient checkpointing.
    """

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.model = whole.get_decoder()
        self.lm_head = whole.lm_head
        self._whole = (whole,)  # in a tuple, else the whole would be a part of its part
        # Bound now: some trainers put this view's methods in the place of the whole's.
        self._forward, self._generate = whole.forward, whole.generate
        self._prepare_inputs = whole.prepare_inputs_for_generation
        self.config = whole.config.text_config
        self.training = self.model.training

    @property
    def generation_config(self) -> Any:
        """The whole model's."""
        return self._whole[0].generation_config

    @generation_config.setter
    def generation_config(self, config: Any) -> None:
        self._whole[0].generation_config = config

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """In what it is computed."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See the whole model's `forward`."""
        return self._forward(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """See the whole model's `generate`. Of a prompt that comes as embeddings alone, the result has no ids."""
        return self._generate(*args, **kwargs)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """See the whole model's; peft asks for it."""
        return self._prepare_inputs(*args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Has the language model's layers computed twice in training."""
        getattr(self.model, f"{CHECKPOINTING}_enable")(gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Ends that."""
        getattr(self.model, f"{CHECKPOINTING}_disable")()

    def enable_input_require_grads(self) -> None:
        """Gives embeddings gradients, which adapters below checkpointed layers need."""
        self.model.enable_input_require_grads()
