"""What the families' configs do alike: reading a file's fields, and refusing those of another kind."""

from typing import Any

from transformers import PreTrainedConfig

from ..hf.originals import ConfigOfOriginals
from ..hf.peft import tell_peft
from ..hf.trl import named_for_trl
from .sub_configs import check_model_type, naming_bad_fields


class FamilyConfig(ConfigOfOriginals, PreTrainedConfig):
    """A config that is built from a file's fields, of its own model type alone."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """See `PreTrainedConfig.from_dict`.

        Raises:
            ValueError: the fields are of another model type, which is answered with the name of its class; or one of
                them is of another kind than its name needs.
        """
        check_model_type(config_dict, cls.model_type)
        with naming_bad_fields("config.json", config_dict):
            return super().from_dict(named_for_trl(config_dict), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """See `PreTrainedConfig.to_dict`; peft, which reads it before it looks for default layers, gets ours first."""
        tell_peft()
        return super().to_dict()
