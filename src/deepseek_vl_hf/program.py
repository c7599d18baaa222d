"""`python -m deepseek_vl_hf` answers to `--help` and to mistakes in arguments before the package is loaded.

Python imports a package before it runs the package's `__main__`, and importing this one takes seconds. So the package
imports this module first of all.
"""

import sys


def is_being_started(package: str) -> bool:
    """Whether Python is looking for `package` at this moment because of `python -m package`.

    While it does, `sys.argv` begins with "-m", and the words after that are the program's own.
    """
    own_words = len(sys.argv) - 1
    if sys.argv[:1] != ["-m"] or len(sys.orig_argv) <= own_words:
        return False
    return sys.orig_argv[len(sys.orig_argv) - own_words - 1].removeprefix("-m") == package


if is_being_started(__package__ or ""):
    from deepseek_vl_command.arguments import parse

    parse()  # ends the process where there is nothing to run; the command reads its arguments again
