"""What lmms-eval finds under this package's name, as pyproject.toml tells it to."""

from typing import Any

NAME = "deepseek_vl_hf"


def manifest() -> Any:
    """The model's entry in lmms-eval's table. Its class is imported once a run asks for it."""
    from lmms_eval.models.registry_v2 import ModelManifest  # noqa: PLC0415 - there where lmms-eval asks

    return ModelManifest(NAME, chat_class_path=f"{__package__}.lmms_model.DeepseekVL")
