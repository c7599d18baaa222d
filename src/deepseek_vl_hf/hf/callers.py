"""Who calls `AutoConfig.from_pretrained`, which tells no config class.

transformers prefers a registered config class to a checkpoint's own code, and gives it the fields of config.json alone.
Two answers depend on more than these: whether the caller trusts code (`elsewhere`), and who the caller is (`trl`).
"""

import sys
from collections.abc import Iterator
from types import FrameType

AUTO_CONFIG_MODULE = "transformers.models.auto.configuration_auto"


def calls_of_auto_config() -> Iterator[FrameType]:
    """The calls of `AutoConfig.from_pretrained` that are running in this thread, the innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "from_pretrained" and module_of(frame) == AUTO_CONFIG_MODULE:
            yield frame
        frame = frame.f_back


def module_of(frame: FrameType | None) -> str:
    """The name of the module whose code a call runs."""
    return "" if frame is None else str(frame.f_globals.get("__name__", ""))
