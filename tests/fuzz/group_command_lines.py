"""Command lines: odd arguments, and right ones about broken pictures and checkpoints; all but a few in this process."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st

from deepseek_vl_command import main
from running import often
from verdict import SECONDS, NotRefusedError, OtherValueError, Recipe, accepting
from world import IMAGES, checkpoint, scratch, temporary

GOOD_MODELS = ("vl", "vl2", "hybrid")
BAD_MODELS = (
    "absent",
    "cut weights",
    "bad index",
    "another size",
    "bad generation",
    "number as text",
    "file",
    "empty",
    "nan",
)
GOOD_PICTURES = ("picture", "picture", "tall")
BAD_PICTURES = ("directory", "absent picture", "text", "cut picture", "nothing", "http://127.0.0.1:1/a.png")
NEITHER = "\ud83d"  # what a terminal makes of bytes that are no text; may be read, or refused
# Options with right values and wrong ones.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "--temperature": (("0", "0.7", "1"), ("nan", "inf", "-1", "x", "", "1e999", "1e-300", "-0.1")),
    "--top-p": (("0.5", "1", "0.95"), ("0", "2", "nan", "-1", "x", "1.0001")),
    "--repetition-penalty": (("1", "1.1"), ("0", "-1", "nan", "inf", "x", "")),
    "--max-new-tokens": (("1", "2"), ("0", "-1", "1.5", "x", "", "nan")),
    "--dtype": (("float32", "bfloat16"), ("int8", "float64", "", "FLOAT32")),
    "--device": (("cpu",), ("gpu", "cuda:99", "meta:x", "", "tpu", "cpu:x")),
    "--system": (("", "You are brief.", "<|User|>", NEITHER), ()),
    "--nonsense": ((), ("x",)),
}
# The same for arguments of `generate`.
NAN, INF = float("nan"), float("inf")
ARGUMENTS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "temperature": ((0.2, 1.0, 2.0), (NAN, INF, -1.0, 0.0, 1e-300, "x")),
    "top_p": ((0.5, 0.95, 1.0), (0.0, 2.0, NAN, -1.0, INF, "x")),
    "top_k": ((1, 5, 50), (-1, 1.5, "x")),
    "repetition_penalty": ((1.0, 1.1, 0.9), (0.0, -1.0, NAN, INF, "x")),
    "max_new_tokens": ((1, 2, 3), (0, -1, "x")),
    "max_new_token": ((), (1,)),
    "images": ((), ([],)),
}
SHARDS = (("5GB", "1MB", "300KB"), ("0GB", "x", "-5GB", "5", "", "1e3GB", "nanGB"))


def recipes() -> st.SearchStrategy[Recipe]:
    option = st.sampled_from(
        [(name, value) for name, values in OPTIONS.items() for value in (*values[0], *values[0], *values[1])]
    )
    odd = st.text(max_size=4)
    describe = {
        "command": st.just("describe"),
        "model": st.sampled_from(GOOD_MODELS * 6 + BAD_MODELS),
        "pictures": st.lists(st.sampled_from(GOOD_PICTURES * 4 + BAD_PICTURES), min_size=1, max_size=2),
        "options": st.lists(option, max_size=2).map(lambda pairs: [part for pair in pairs for part in pair]),
        "flags": st.lists(st.sampled_from(("--json", "--together")), max_size=2, unique=True),
    }
    folders = {
        "model": st.sampled_from(GOOD_MODELS * 3 + BAD_MODELS),
        "destination": st.sampled_from(("new", "new", "new", "existing", "file", "below a file", "nul")),
        "shards": st.sampled_from((*SHARDS[0], *SHARDS[1])),
    }
    convert = {**folders, "command": st.just("convert"), "to": st.sampled_from(("transformers", "original", "x"))}
    quantize = {**folders, "command": st.just("quantize"), "group": st.sampled_from(("32", "64", "0", "x", "-32"))}
    chat = {
        "command": st.just("chat"),
        "model": st.sampled_from(GOOD_MODELS),
        "lines": st.lists(
            st.sampled_from(("hi", "/image picture", "/image absent picture", "/save", "/undo", "/new", "", "/x", "\\"))
            | odd,
            max_size=4,
        ),
    }
    argument = st.sampled_from(
        [(name, value) for name, values in ARGUMENTS.items() for value in (*values[0], *values[1])]
    )
    generate = {
        "command": st.just("generate"),
        "family": st.sampled_from(("vl", "vl2_mha")),
        "arguments": st.lists(argument, min_size=1, max_size=2).map(lambda pairs: [list(pair) for pair in pairs]),
    }
    argv = st.lists(
        st.sampled_from(("describe", "convert", "quantize", "demo", "chat", "--help", "--port", "-p", "--")) | odd,
        max_size=4,
    )
    return often(
        *(st.fixed_dictionaries(fields) for fields in (describe, describe, convert, quantize, chat, generate)),
        st.fixed_dictionaries({"command": st.just("arguments"), "argv": argv}),
        st.fixed_dictionaries({"command": st.just("process"), "argument": st.sampled_from((*PROCESSES, *[None] * 60))}),
    )


# What Python shows, and what the command says of an error that it does not know.
UNFORESEEN = re.compile(r"Traceback|error: unexpected")
PROCESSES = ("--version", "not UTF-8", "absent model")


def check(recipe: Recipe) -> None:
    with scratch() as folder:
        if recipe["command"] == "generate":
            _check_generate(recipe)
        elif recipe["command"] == "process":
            _check_process(recipe["argument"])
        elif recipe["command"] == "arguments":
            _run(
                [each for each in recipe["argv"] if each not in ("demo", "chat")] or ["demo", "--port", "-1"], None, ""
            )
        else:
            argv, lines, good = {"describe": _describe, "chat": _chat}.get(recipe["command"], _folders)(recipe, folder)
            _run(argv, good, lines)
        precious = folder / "existing" / "precious.txt"
        if "destination" in recipe and not precious.is_file():
            raise OtherValueError("what was at the destination is gone")


def _run(argv: list[str], good: bool | None, lines: str) -> None:
    """Runs a command line; `good` is whether it has to succeed, None if that is open."""
    out, err, stdin = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(lines)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = main(argv)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdin = stdin
    said = err.getvalue()
    if UNFORESEEN.search(said):
        raise OtherValueError(f"an error that nobody foresaw: {said[-300:]}")
    if status and not said.strip():
        raise OtherValueError(f"status {status} without a word")
    if good and status:
        raise OtherValueError(f"right arguments were refused: {said[-300:]}")
    if good is False and not status:
        raise NotRefusedError(f"wrong arguments; it printed {out.getvalue()[-100:]!r}")
    if status:
        raise ValueError(said)


def _describe(recipe: Recipe, folder: Path) -> tuple[list[str], str, bool | None]:
    options = recipe["options"]
    pairs = list(zip(options[::2], options[1::2], strict=True))
    last = dict(pairs)  # the last one counts, but argparse reads all
    good: bool | None = all(value in OPTIONS[name][0] for name, value in pairs)
    good = good and recipe["model"] in GOOD_MODELS and all(each in GOOD_PICTURES for each in recipe["pictures"])
    if any(value == NEITHER for _, value in pairs):
        good = None
    argv = ["describe", *(str(_picture(each)) for each in recipe["pictures"]), "--model", str(_model(recipe["model"]))]
    argv += [] if "--max-new-tokens" in last else ["--max-new-tokens=1"]
    return [*argv, *recipe["flags"], *(f"{name}={value}" for name, value in pairs)], "", good


def _chat(recipe: Recipe, folder: Path) -> tuple[list[str], str, bool | None]:
    lines = [line.replace("absent picture", str(_picture("absent picture"))) for line in recipe["lines"]]
    lines = [line.replace("/image picture", f"/image {_picture('picture')}") for line in lines]
    lines = [line for line in lines if not line.startswith("/save ")]
    return ["chat", str(_model(recipe["model"])), "--max-new-tokens=1"], "\n".join(lines), None


def _folders(recipe: Recipe, folder: Path) -> tuple[list[str], str, bool | None]:
    (folder / "file").write_text("x", encoding="utf-8")
    (folder / "existing").mkdir()
    (folder / "existing" / "precious.txt").write_text("x", encoding="utf-8")
    destination = {"below a file": "file/new", "nul": "a\x00b"}.get(recipe["destination"], recipe["destination"])
    argv = [recipe["command"], str(_model(recipe["model"])), str(folder / destination), "--quiet"]
    argv.append(f"--max-shard-size={recipe['shards']}")
    if recipe["command"] == "convert":
        argv += ["--to", recipe["to"]]
    else:
        argv += [f"--group-size={recipe['group']}", "--device=cpu"]
    return argv, "", _must_write(recipe)


def _must_write(recipe: Recipe) -> bool | None:
    """Whether a folder has to be written, may not be, or either."""
    how = recipe.get("to") or recipe["group"]
    if recipe["shards"] not in SHARDS[0] or how in ("x", "0", "-32"):
        return False
    if how == "original":
        return None  # what is in that layout is not converted, wherever to
    if recipe["destination"] != "new":
        return False
    if recipe["model"] in BAD_MODELS:
        return None if recipe["model"] in ("nan", "bad generation", "number as text") else False  # copied as they are
    return True if how in ("transformers", "32") else None  # not all layers hold groups of 64


def _check_generate(recipe: Recipe) -> None:
    """Arguments of `generate`, as the command line and programs pass them."""
    model = checkpoint(recipe["family"], "original")
    given = dict(recipe["arguments"])
    wrong = [name for name, value in given.items() if not _suits(name, value)]
    options = {"do_sample": True, "max_new_tokens": 2, **given}
    if wrong:
        model.model.generate(**model.answer.inputs, **options)
        raise NotRefusedError(f"{wrong[0]}={given[wrong[0]]!r}")
    with accepting("right arguments"):
        found = model.model.generate(**model.answer.inputs, **options)
    if found.shape[1] <= model.answer.inputs["input_ids"].shape[1]:
        raise OtherValueError("nothing was generated")


def _suits(name: str, value: Any) -> bool:
    return any(type(value) is type(each) and value == each for each in ARGUMENTS[name][0])


def _check_process(argument: str | None) -> None:
    """What only a process of its own shows: bytes that are no text, and what is said on the way out."""
    if argument is None:
        return
    last: dict[str, list[Any]] = {
        "--version": ["--version"],
        "not UTF-8": ["describe", str(_picture("picture")), "-p", b"x\xff", "--max-new-tokens=1"],
        "absent model": ["describe", str(_picture("picture")), "--model", str(_model("absent"))],
    }
    command = [sys.executable, "-m", "deepseek_vl_command", *last[argument]]
    found = subprocess.run(command, capture_output=True, timeout=3 * SECONDS, check=False, env=dict(os.environ))
    said = found.stderr.decode(errors="replace")
    if UNFORESEEN.search(said) or found.returncode < 0:
        raise OtherValueError(f"status {found.returncode}: {said[-300:]}")
    if argument == "absent model" and not (found.returncode and "error:" in said):
        raise NotRefusedError("a model that is not there")


@cache
def _picture(name: str) -> Path | str:
    """Pictures that are none, by what they are."""
    folder = temporary() / "pictures"
    folder.mkdir(exist_ok=True)
    if name in ("picture", "tall"):
        return IMAGES / {"picture": "tiny.png", "tall": "grid.png"}[name]
    if name in ("text", "cut picture"):
        path = folder / f"{name}.png"
        path.write_bytes(b"no" if name == "text" else (IMAGES / "tiny.png").read_bytes()[:200])
        return path
    return {"directory": folder, "absent picture": folder / "absent.png", "nothing": ""}.get(name, name)


@cache
def _model(name: str) -> Path:
    """Checkpoints, whole and broken."""
    known = {"vl": "vl", "vl2": "vl2_mha", "hybrid": "vl_hybrid"}
    if name in known:
        return checkpoint(known[name], "original").folder
    folder = temporary() / f"model, {name}"
    if name == "absent":
        return folder
    if name == "file":
        folder.write_text("x", encoding="utf-8")
        return folder
    if name == "empty":
        folder.mkdir()
        return folder
    shutil.copytree(checkpoint("vl", "original").folder, folder)
    _break(folder, name)
    return folder


def _break(folder: Path, name: str) -> None:
    weights = sorted(folder.glob("*.safetensors"))[0]
    content = weights.read_bytes()
    if name == "cut weights":
        weights.write_bytes(content[:-500])
    elif name == "nan":
        length = 8 + int.from_bytes(content[:8], "little")
        weights.write_bytes(content[:length] + b"\x00\x7e" * ((len(content) - length) // 2))
    elif name == "another size":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["language_config"]["intermediate_size"] = 777
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    elif name == "bad index":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": []}', encoding="utf-8")
    else:
        text = "[]" if name == "bad generation" else '{"max_new_tokens": "x"}'
        (folder / "generation_config.json").write_text(text, encoding="utf-8")
