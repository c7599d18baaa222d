"""Names of files as people type them and as terminals paste them: plain, quoted, or with escaped blanks.

What is a name as it stands is left as it stands, so backslashes of Windows stay what they are.
"""

import os
import re

from .pictures import is_link

# A word of a shell: quoted pieces, escaped characters, and all others but blanks.
WORD = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^\s"'\\])+""")
PIECE = re.compile(r""""((?:\\.|[^"\\])*)"|'([^']*)'|\\(.)|([^\s"'\\]+)""")
# Windows has it between folders, where it escapes nothing.
BACKSLASH_ESCAPES = os.sep != "\\"
OF_WINDOWS = re.compile(r"""["']?(?:[A-Za-z]:[\\/]|\\\\)""")
# How the names begin that a terminal pastes when a file is dropped on it; what else begins a line is a message.
WHOLE_PATH = re.compile(r"(?:/|~/|[A-Za-z]:[\\/]|\\\\|file:/)")


def names_in(text: str) -> list[str]:
    """The names behind `/image`: one, which may hold blanks, or several files in the form of a shell's words."""
    text = text.strip()
    if _is_file(text) or is_link(text):
        return [text]
    words = _words(text)
    if len(words) > 1 and all(map(_is_file, words)):
        return words
    return [name_in(text)]


def name_in(text: str) -> str:
    """The name behind `/save` and `/load`: of one file, which need not be there."""
    text = text.strip()
    words = [] if _is_file(text) else _words(text)
    return words[0] if len(words) == 1 else text


def dropped_names(line: str) -> tuple[list[str], str]:
    """The files that a line begins with, as a terminal pastes them, and the message behind them.

    Only whole paths of files that are there count, and `file:` links.
    """
    rest = line.strip()
    if _is_dropped(rest) and _is_file(rest):
        return [rest], ""
    names: list[str] = []
    while match := WORD.match(rest):
        name = _name_of(match[0])
        behind = rest[match.end() :]
        if not _is_dropped(name) or (behind and not behind[0].isspace()):
            break
        names.append(name)
        rest = behind.lstrip()
    return (names, rest) if names else ([], line)


def _is_dropped(name: str) -> bool:
    return bool(WHOLE_PATH.match(name)) and (is_link(name) or _is_file(name))


def _words(text: str) -> list[str]:
    """The names of which a text consists; none if a quote in it has no end."""
    words = []
    while match := WORD.match(text):
        words.append(_name_of(match[0]))
        text = text[match.end() :].lstrip()
    return [] if text else words


def _name_of(word: str) -> str:
    """A word's name: as it stands between its quotes if that is a file or of Windows, else as a shell reads it."""
    inner = word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word
    if _is_file(inner) or OF_WINDOWS.match(inner) or not BACKSLASH_ESCAPES:
        return inner
    return PIECE.sub(_piece, word)


def _piece(match: re.Match[str]) -> str:
    quoted, plain, escaped, other = match.groups()
    if quoted is not None:
        return re.sub(r'\\(["\\$`])', r"\1", quoted)
    return next((text for text in (plain, escaped, other) if text is not None), "")


def _is_file(name: str) -> bool:
    # pathlib raises for texts that are too long to be a path, and for home folders that nobody has.
    return os.path.isfile(os.path.expanduser(name))  # noqa: PTH111, PTH113
