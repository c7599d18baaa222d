"""What a chat template reads, and what its errors say.

Templates come with checkpoints, so they are text that someone else wrote: what they do not read must not be dropped
without a word, and what goes wrong inside of them has to be told from a fault of this package.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from jinja2 import Environment, TemplateError
from jinja2.exceptions import TemplateSyntaxError

# How jinja2 names a template that was made from a string, in tracebacks.
_FILE_NAME = "<template>"


@lru_cache
def names_in_template(template: str) -> frozenset[str]:
    """Every name and key that a template may read: variables, attributes, and strings that are looked up.

    It goes by the template's words rather than by its syntax tree, so that tags of extensions, which this package need
    not know, do no harm. A template that cannot be read holds no names; rendering it says why.
    """
    try:
        tokens = [token for token in Environment(autoescape=True).lex(template) if token[1] != "whitespace"]
    except TemplateSyntaxError:
        return frozenset()
    names = {value for _, kind, value in tokens if kind == "name"}
    for (_, before, sign), (_, kind, value), (_, _, after) in zip(tokens, tokens[1:], tokens[2:], strict=False):
        looked_up = (before == "operator" and sign in "[(") or after == "in"
        if kind == "string" and looked_up:  # message['name'], message.get('name'), 'name' in message
            names.add(value[1:-1])
    return frozenset(names)


@contextmanager
def naming_the_line() -> Iterator[None]:
    """Turns whatever is raised inside a chat template into a ValueError with the template's line.

    Raises:
        ValueError: the template is no Jinja, refuses the conversation, or fails.
    """
    try:
        yield
    except Exception as error:
        line = _line_in_template(error)
        if line is None and not isinstance(error, TemplateError):
            raise
        where = "" if line is None else f" (line {line} of the template)"
        reason = f"{error}" if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"The chat template cannot write this conversation{where}: {reason} Change the conversation, or pass "
            "another chat_template."
        ) from error


def _line_in_template(error: Exception) -> int | None:
    """The line of the template in which an error was raised; jinja2 puts it into the traceback."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == _FILE_NAME:
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
