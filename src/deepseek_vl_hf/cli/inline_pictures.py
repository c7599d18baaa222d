"""Pictures in terminals that can show them, drawn by the optional package textual-image.

That package asks the terminal what it can do as soon as it is imported, in codes that some terminals print as text. So
only terminals that are known to read such codes are asked, and only those that then say that they can show pictures
get any.
"""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from PIL import Image

from ..pictures.opening import to_rgb

ShowPicture = Callable[[Image.Image], None]

# What terminals call themselves that read the codes of Kitty or Sixel, or pass over them.
READING_CODES = {
    "TERM": ("xterm-kitty", "xterm-ghostty", "foot", "foot-extra", "contour", "mlterm", "wezterm"),
    "TERM_PROGRAM": ("iTerm.app", "WezTerm", "ghostty", "mintty", "vscode"),
    "LC_TERMINAL": ("iTerm2",),  # which a session on another computer inherits
}
NAMED_BY_PRESENCE = ("KONSOLE_VERSION", "WT_SESSION")
# Programs that stand between, whose variables are those of the terminal they were started in, and what reads no codes.
BETWEEN = ("TMUX", "STY")
NOT_THE_TERMINAL = ("dumb", "screen", "tmux", "linux", "eterm")
# The largest picture, in characters: it is shown to be recognized, and the conversation goes on below it.
COLUMNS, ROWS = 40, 12


def show_nothing(picture: Image.Image) -> None:
    """For pipes, and terminals without pictures."""


def reads_codes(environment: Mapping[str, str]) -> bool:
    """Whether the terminal is known to read the codes of pictures, or to pass over them.

    Args:
        environment: variables, in which terminals leave their names.
    """
    if any(environment.get(name) for name in BETWEEN) or environment.get("TERM", "").startswith(NOT_THE_TERMINAL):
        return False
    named = any(environment.get(name) in values for name, values in READING_CODES.items())
    return named or any(environment.get(name) for name in NAMED_BY_PRESENCE)


def picture_display() -> ShowPicture:
    """What shows a picture in this terminal; shows nothing where that cannot be done.

    To be called before anything else reads what is typed, because the terminal's answer comes the same way.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty() and reads_codes(os.environ)):
        return show_nothing
    logging.getLogger("textual_image").setLevel(logging.ERROR)  # it warns, with a traceback, where nothing answers
    try:
        from rich.console import Console  # noqa: PLC0415
        from textual_image import renderable  # noqa: PLC0415
    except Exception:  # it is not installed, or the terminal's answer is none
        return show_nothing
    if renderable.Image not in (renderable.SixelImage, renderable.TGPImage):
        return show_nothing

    def show(picture: Image.Image) -> None:
        columns = min(COLUMNS, shutil.get_terminal_size().columns)
        # All settled: what rich would find in the environment may turn colors off, in which Kitty's pictures are named.
        console = Console(
            file=sys.stdout,
            force_terminal=True,
            color_system="truecolor",
            no_color=False,
            legacy_windows=False,
            width=columns,
            height=ROWS,
        )
        with suppress(OSError, ValueError):  # its name is shown in any case
            console.print(renderable.Image(to_rgb(picture), width="auto", height="auto"), end="")

    return show
