"""Measuring models with lmms-eval, of which this package is a plugin: `lmms_eval --model deepseek_vl_hf`."""

from pathlib import Path


def tasks_path() -> Path:
    """Folder of the task files, for `--include_path` of lmms-eval: RefCOCO in DeepSeek-VL2's own form."""
    return Path(__file__).parent / "tasks"
