"""The most memory that a process takes while something runs in it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_LOOKS = 0.005


@dataclass
class Memory:
    """In bytes, of this process alone.

    Attributes:
        before: what it had at first.
        peak: the most that it had since then.
    """

    before: int
    peak: int


def own_bytes() -> int:
    """Anonymous memory of this process; pages of mapped files belong to the system, which can drop them."""
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024


@contextmanager
def watched_memory() -> Iterator[Memory]:
    """Watches this process's memory; the figures are there once the block is left."""
    now = own_bytes()
    memory, done = Memory(now, now), threading.Event()

    def watch() -> None:
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            memory.peak = max(memory.peak, own_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()


def tell_encoding_memory(run: Callable[[], Any]) -> None:
    """Prints as JSON, for `processes.in_turn`, the most bytes that a call takes beyond what the process has."""
    with watched_memory() as memory:
        run()
    print(json.dumps({"encoding_bytes": memory.peak - memory.before}))
