"""What becomes of a case: right, refused by a clear error, or bad. Groups say what is right; everything else is here.

A case is a recipe: a dict that JSON can hold, from which everything else follows. So a bad case can be replayed.
"""

import json
import linecache
import re
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SECONDS = 20
FOLDERS = re.compile(r"/\S*(fuzz-\w+|site-packages)/")  # of this machine; left out of reports
KIND = 40  # letters of what happened, by which bad cases are told apart; a report shows one of each kind
GIGABYTES = 2
# Beyond the limit, so that a case that passes it is measured and named instead of killed by the system.
ROOM = 1 << 30

REFUSALS = (ValueError, TypeError, OSError, ImportError)
# Says nothing of the file or the value that a person has to mend.
NOT_CLEAR = (UnicodeError, json.JSONDecodeError)
OURS = ("deepseek_vl_hf", "deepseek_vl_command")
# Whose `raise` statements word errors for people. What Python or numpy say of an operation is not worded for them.
SPEAKERS = (*OURS, "transformers", "huggingface_hub")
CHECKED_BY_TORCH = "torch/__init__.py"  # torch._check raises with the words of who calls it

Recipe = dict[str, Any]
Check = Callable[[Recipe], None]


class OtherValueError(AssertionError):
    """What was accepted gave something else than what it says."""


class NotRefusedError(OtherValueError):
    """What has no right result was accepted."""


@contextmanager
def accepting(what: str) -> Iterator[None]:
    """What runs in it has a right result, so it may not be refused."""
    try:
        yield
    except OtherValueError:
        raise
    except REFUSALS as error:
        raise OtherValueError(f"{what} was refused: {type(error).__name__}: {error}"[:400]) from error


class HangError(BaseException):
    """A case took too long; no `except Exception` may swallow it."""


@dataclass
class Tally:
    """Counts of a group, and its bad cases as (recipe, what happened)."""

    group: str
    tried: int = 0
    right: int = 0
    refused: int = 0
    bad: list[tuple[Recipe, str]] = field(default_factory=list)

    def add(self, recipe: Recipe, verdict: str) -> None:
        self.tried += 1
        if verdict == "right":
            self.right += 1
        elif verdict == "refused":
            self.refused += 1
        else:
            self.bad.append((recipe, FOLDERS.sub("", verdict)))

    def as_dict(self) -> dict[str, Any]:
        counts = {"tried": self.tried, "right": self.right, "refused": self.refused, "bad": len(self.bad)}
        return {**counts, "bad_cases": self.bad_kinds()}

    def bad_kinds(self) -> list[dict[str, Any]]:
        """The first bad case of each kind, and how many there are of it."""
        kinds: dict[str, dict[str, Any]] = {}
        for recipe, what in self.bad:
            first = {"what": what, "times": 0, "case": {"group": self.group, **recipe}}
            kinds.setdefault(what[:KIND], first)["times"] += 1
        return sorted(kinds.values(), key=lambda kind: -kind["times"])


def judge(check: Check, recipe: Recipe) -> str:
    """Runs a case; "right", "refused" or what is bad about it."""
    try:
        with _in_limits() as memory, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(recipe)
    except KeyboardInterrupt:
        raise
    except OtherValueError as error:
        return f"{'accepted' if isinstance(error, NotRefusedError) else 'another value'}: {error}"
    except HangError:
        return f"hang: more than {SECONDS} s"
    except BaseException as error:  # whatever a case leads to is its verdict
        return fault_of(error) or _too_large(memory) or "refused"
    return _too_large(memory) or "right"


def fault_of(error: BaseException) -> str | None:
    """What is wrong with an error as an answer to a person; None if it is a clear one.

    What a library says before any code of this package was called is its own; it has to be of the right kind.
    """
    frames = list(_frames(error.__traceback__))
    place = "/".join(Path(frames[-1][0]).parts[-2:]) + f":{frames[-1][1]}" if frames else "nowhere"
    shown = f"{type(error).__name__}: {error}"[:400] + f" [{place}]"
    if not isinstance(error, REFUSALS):
        return shown
    if not str(error).strip():
        return f"{shown}: no message"
    if isinstance(error, OSError) and (error.filename is not None or "/" in str(error)):
        return None  # the system's, with the file's name
    if not any(_is_of(OURS, path) for path, _ in frames):
        return None
    path, number = frames[-1]
    worded = _is_of(SPEAKERS, path) or path.endswith(CHECKED_BY_TORCH)
    on_purpose = linecache.getline(path, number).strip().startswith("raise") and worded
    return None if on_purpose and not isinstance(error, NOT_CLEAR) else shown


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, int]]:
    """File and line of each call, the last one where the error was raised."""
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        traceback = traceback.tb_next


def _is_of(packages: tuple[str, ...], path: str) -> bool:
    return not set(packages).isdisjoint(Path(path).parts)


def _too_large(memory: dict[str, int]) -> str | None:
    grown = memory["peak"] - memory["before"]
    return f"memory: {grown / 1e9:.1f} GB" if grown > GIGABYTES * 1e9 else None


@contextmanager
def _in_limits() -> Iterator[dict[str, int]]:
    """Ends what takes too long, refuses what takes too much memory; gives bytes before and at the peak."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise HangError

    alarm = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, stop) if alarm else None
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    memory = {"before": _status("VmRSS"), "peak": 0}
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
        resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + int(GIGABYTES * 1e9) + ROOM, limit[1]))
    try:
        if alarm:
            # Again and again: raised inside of a __del__ or a callback it is lost.
            signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
        yield memory
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, limit)
        memory["peak"] = _status("VmHWM")


def _status(name: str) -> int:
    """A figure of this process in bytes; 0 where the system does not tell."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return 0
    return int(path.read_text(encoding="ascii").partition(f"{name}:")[2].split()[0]) * 1024
