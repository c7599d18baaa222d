"""Processes that train together: what one of them finds for all, and which of their errors is told."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

Found = TypeVar("Found")
# Of the launcher's store; one that is gone does not answer at all.
LONGEST_WAIT = timedelta(seconds=10)


def of_first(find: Callable[[], Found]) -> Found:
    """What the first process finds, for all; the others do not look, and wait for it."""
    state = PartialState()
    found = [find() if state.is_main_process else None]
    if state.num_processes > 1:
        broadcast_object_list(found)
    return found[0]  # type: ignore[return-value] # there it is the first one's


@contextmanager
def one_error() -> Iterator[None]:
    """Has the process that fails first tell its error; the others, which fail alike or because of it, end in silence.

    Raises:
        SystemExit: in those others.
    """
    try:
        yield
    except Exception as error:
        if _is_first_to_fail():
            raise
        raise SystemExit(1) from error


def _is_first_to_fail() -> bool:
    """Whether no other process of this launch has failed; each asks once, in the store that torch's launcher keeps."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not address or not port:
        return True
    try:
        store = torch.distributed.TCPStore(address, int(port), is_master=False, timeout=LONGEST_WAIT)
        return store.add(f"deepseek_vl_hf/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (RuntimeError, ValueError):  # rather two messages than none
        return True
