"""Times two or more ways to do the same, called in turn, so that the machine's moods hit all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Run = Callable[[], Any]


def seconds_of(run: Run) -> float:
    """One call, in seconds; on a GPU until its work is done, by the device's own clock."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start_event.record()
    run()
    end_event.record()
    torch.cuda.synchronize()
    return start_event.elapsed_time(end_event) / 1e3


def medians(runs: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """The median of each in seconds, after one call of each that is not counted.

    Args:
        runs: what to call, by name.
        repeats: how often each is called.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run))
    return {name: statistics.median(values) for name, values in seconds.items()}
