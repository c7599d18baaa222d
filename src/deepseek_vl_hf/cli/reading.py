"""What people type: from a terminal, with editing and history, or from a pipe."""

from collections.abc import Callable
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, NestedCompleter, PathCompleter
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

# Called with what stands in front of the line. Raises EOFError at the end, KeyboardInterrupt for Ctrl-C.
ReadLine = Callable[[str], str]

# A line that ends with it goes on in the next one.
CONTINUES = "\\"


def lines_of_terminal() -> ReadLine:
    """Lines with editing, history (of this conversation) and completion; Alt-Enter begins a new line."""
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    files = PathCompleter(expanduser=True)
    commands: dict[str, Completer | None] = {"/image": files, "/save": files, "/load": files}
    commands |= dict.fromkeys(("/new", "/undo", "/help"))
    session: PromptSession[str] = PromptSession(
        key_bindings=bindings, completer=NestedCompleter(commands), complete_while_typing=False, multiline=True
    )

    def read(label: str) -> str:
        lines = [session.prompt(label)]
        while lines[-1].endswith(CONTINUES):
            lines[-1] = lines[-1].removesuffix(CONTINUES)
            lines.append(session.prompt("... "))
        return "\n".join(lines)

    return read


def lines_of_pipe(stream: TextIO) -> ReadLine:
    """Lines of a file or pipe; nothing is shown in front of them."""

    def one() -> str:
        line = stream.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    def read(label: str) -> str:
        lines = [one()]
        while lines[-1].endswith(CONTINUES):
            lines[-1] = lines[-1].removesuffix(CONTINUES)
            try:
                lines.append(one())
            except EOFError:
                break
        return "\n".join(lines)

    return read
