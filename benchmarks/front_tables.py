"""The README's own parts: where to clone it, and why this package, in five rows from benchmarks/results."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speed_tables import amount

RESULTS = Path(__file__).parent / "results"
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
INSTALL = """In a virtual environment of Python 3.10 or newer{instead}:

```bash
git clone {address} deepseek_vl_hf && cd deepseek_vl_hf
pip install uv
uv pip install torch --torch-backend=auto
uv pip install -e .
```"""
PLACEHOLDER = "https://example.org/"
HEAD = ("", "deepseek_vl_hf", "transformers' port", "original code")
NOT_MEASURED = "not measured"


def why_table() -> str:
    """Pixels, first token, second turn, memory and releases beside the alternatives."""
    rows = [
        ("pictures with the original's pixels", *_pixels(), "the reference"),
        ("picture and question to first token", *_speed("picture and question to first token"), NOT_MEASURED),
        ("second question about it, to first token", *_second_turn(), NOT_MEASURED),
        ("memory while a picture is encoded", *_speed("memory while a picture is encoded"), NOT_MEASURED),
        ("DeepSeek-VL2", "tiny, small, base", "none", "tiny, small, base; transformers 4.38 only"),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEAD, ("---",) * len(HEAD), *rows))


def install_lines() -> str:
    """How to clone and install, with the address that pyproject.toml gives."""
    (address,) = re.findall(r'^Repository = "(.*)"$', PYPROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    instead = f", with this repository's address in place of `{address}`" if address.startswith(PLACEHOLDER) else ""
    return INSTALL.format(address=address, instead=instead)


def _results(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _pixels() -> tuple[str, str]:
    families: Mapping[str, Any] = _results("parity.json")["families"]
    compared = [family for family in families.values() if "port_pictures_with_equal_pixels" in family]
    pictures = sum(family["pictures"] for family in compared)
    ours = sum(family["pictures_with_equal_pixels"] for family in compared)
    port = sum(family["port_pictures_with_equal_pixels"] for family in compared)
    return f"{ours} of {pictures}", f"{port} of {pictures}"


def _speed(stage: str) -> tuple[str, str]:
    row = next(row for row in _results("speed.json")["rows"] if (row["stage"], row["dtype"]) == (stage, "bfloat16"))
    return amount(row["deepseek_vl_hf"], row["unit"]), amount(row["transformers"], row["unit"])


def _second_turn() -> tuple[str, str]:
    seconds = _results("chat.json")["turns"][0]["seconds"]
    return amount(seconds["chat"], "seconds"), amount(seconds["pipeline"], "seconds")
