"""Pictures in the terminal: to which ones they go, and that no other output changes."""

import io
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image
from rich.text import Text  # of the locked environments; textual-image brings it

from deepseek_vl_hf.cli.conversation import ChatLoop
from deepseek_vl_hf.cli.inline_pictures import picture_display, reads_codes, show_nothing

KITTY = {"TERM": "xterm-kitty"}
ITERM = {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}
WITHOUT = [
    {},
    {"TERM": "xterm"},
    {"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"},
    {"TERM": "dumb", "TERM_PROGRAM": "vscode"},
    {"TERM": "screen-256color", "TERM_PROGRAM": "iTerm.app"},
    {**KITTY, "TMUX": "/tmp/tmux-0/default,1,0"},
]
NAME = "[picture 1 of the next message: a.png, 64 x 32 pixels]\n"


class Stream(io.StringIO):
    """A terminal, or a pipe."""

    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


class Drawn:
    """A picture of the library's."""

    def __init__(self, picture, width, height):
        if picture.width == 1:
            raise ValueError("too narrow")
        self.size = picture.size

    def __rich__(self):
        return Text(f"{type(self).__name__} {self.size}\n")


def library(chosen):
    """A package that chose this way to draw when it asked the terminal."""
    names = ("SixelImage", "TGPImage", "HalfcellImage")
    drawing = SimpleNamespace(**{name: type(name, (Drawn,), {}) for name in names})
    drawing.Image = getattr(drawing, chosen)
    package = ModuleType("textual_image")
    package.renderable = drawing
    return package


@pytest.fixture
def printed(monkeypatch):
    """What is printed when a picture is added."""

    def run(environment, package, size=(64, 32), terminals=(True, True)):
        monkeypatch.setattr(os, "environ", environment)
        monkeypatch.setitem(sys.modules, "textual_image", package)
        for name, is_terminal in zip(("stdin", "stdout"), terminals, strict=True):
            monkeypatch.setattr(sys, name, Stream(is_terminal))
        loop = ChatLoop(None, lambda label: "exit", at_terminal=all(terminals), show=picture_display())
        loop.add_picture("folder/a.png", Image.new("RGBA", size))
        return sys.stdout.getvalue()

    return run


def test_terminals_that_show_pictures(printed):
    """One that is asked and says so; the name follows in any case."""
    for environment in (KITTY, ITERM, {"LC_TERMINAL": "iTerm2"}, {"TERM": "xterm-256color", "WT_SESSION": "1"}):
        assert printed({**environment, "NO_COLOR": "1"}, library("SixelImage")) == f"SixelImage (64, 32)\n{NAME}"
    assert printed(KITTY, library("TGPImage")) == f"TGPImage (64, 32)\n{NAME}"
    assert printed(KITTY, library("HalfcellImage")) == NAME
    assert printed(KITTY, None) == NAME  # the library is not installed
    assert printed(KITTY, library("TGPImage"), size=(1, 32)) == NAME.replace("64 x", "1 x")


def test_terminals_and_pipes_that_get_names_alone(printed):
    """They are not even asked, because that takes codes."""
    for environment in WITHOUT:
        assert not reads_codes(environment)
        assert printed(environment, library("TGPImage")) == NAME
    assert printed(ITERM, library("TGPImage"), terminals=(False, True)) == ""
    assert printed(ITERM, library("TGPImage"), terminals=(True, False)) == ""
    assert picture_display() is show_nothing
