"""What torchao complains about while it is imported, kept off the terminal.

transformers imports torchao wherever it is installed, also for models without 4-bit weights.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# By logger. Whatever else these say is shown.
COMPLAINTS = {
    # Its extensions are built for other devices and versions; the 4-bit kernels are torch's own.
    "torchao": r"Failed to load .*[/\\]_C\w*\.|Skipping import of cpp extensions",
    # It registers enumerations in a way that torch is going to drop.
    "torch.utils._pytree": r"<enum '\w+'> is an Enum subclass .* register_constant\(\)",
}


@contextmanager
def without_complaints_of_torchao() -> Iterator[None]:
    """Drops these messages, and no others, inside the `with` block."""
    with ExitStack() as stack:
        for name, pattern in COMPLAINTS.items():
            stack.enter_context(_without(logging.getLogger(name), re.compile(pattern)))
        yield


@contextmanager
def _without(logger: logging.Logger, pattern: re.Pattern[str]) -> Iterator[None]:
    def is_shown(record: logging.LogRecord) -> bool:
        return pattern.match(record.getMessage()) is None

    logger.addFilter(is_shown)
    try:
        yield
    finally:
        logger.removeFilter(is_shown)
