"""Programs in processes of their own that begin with torch and transformers imported: an interpreter takes seconds to.

One interpreter imports both, once, and forks for each program. All else, this package included, a program imports
anew, and whatever it changes ends with it. What looks at imports or at their output, or sets variables that are read
at import, wants `subprocess` and a new interpreter.
"""

import functools
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import types
from pathlib import Path

STREAMS = ("input", "output", "errors")
IMPORTED = ("torch", "transformers.models.auto", "transformers.pipelines")
SECONDS = 300  # after which a program is ended


def python(*arguments, text="", cwd=None):
    """What `python ARGUMENTS` does, with a text to read: `-c PROGRAM`, `-m MODULE` or a script, and their arguments.

    Returns:
        What `subprocess.run` does.
    """
    arguments = [str(argument) for argument in arguments]
    if sys.platform != "linux":  # elsewhere libraries do not live on in a fork
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, errors="surrogateescape", cwd=cwd, check=False
        )
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in STREAMS]
        streams[0].write_text(text, encoding="utf-8", errors="surrogateescape")
        request = {
            "arguments": arguments,
            "streams": [str(path) for path in streams],
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ),
        }
        server = _server()
        server.stdin.write(f"{json.dumps(request)}\n")
        server.stdin.flush()
        status = server.stdout.readline()
        assert status, f"the interpreter that forks has ended; `{sys.executable} {__file__}` shows why"
        output, errors = (path.read_text(encoding="utf-8", errors="surrogateescape") for path in streams[1:])
    return subprocess.CompletedProcess(arguments, int(status), output, errors)


@functools.cache
def _server():
    """The interpreter that forks; it ends when nobody can ask it any more."""
    return subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # torchao complains
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads do not live on in a fork
    )


def serve():
    """Forks for each request and tells how the program ended. In a fork, carries out the program and returns."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for name in IMPORTED:
        importlib.import_module(name)
    sys.path.pop(0)  # the folder of this file
    gc.freeze()  # else a fork that collects garbage copies all this memory
    for line in requests:
        child = os.fork()
        if child == 0:
            carry_out(**json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=replies, flush=True)


def carry_out(arguments, streams, cwd, environment):
    """The program, in this process."""
    signal.alarm(SECONDS)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    kind, *rest = arguments
    if kind == "-m":
        sys.path.insert(0, cwd)
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if kind == "-c":
        sys.path.insert(0, "")
        sys.argv, program = ["-c", *rest[1:]], rest[0]
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv, program, main.__file__ = arguments, Path(kind).read_bytes(), kind
    exec(compile(program, "<string>" if kind == "-c" else kind, "exec"), main.__dict__)


if __name__ == "__main__":
    serve()
